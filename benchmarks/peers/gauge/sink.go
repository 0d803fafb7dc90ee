package main

import (
	"bytes"
	"crypto/tls"
	"flag"
	"io"
	"net/http"
	"strings"
	"sync"
)

// sink is an HTTP target: POST /<name>/<part> is counted under <name> and <name>/<part>; other methods are the board's.
func sink(flags *flag.FlagSet, arguments []string) error {
	listen := flags.String("listen", "127.0.0.1:0", "host:port of the target")
	secured := identityFlags(flags)
	show := flags.String("show", "", "host:port of the counts, without TLS; by default with the target")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	config, err := secured.config()
	if err != nil {
		return err
	}
	all := newBoard()
	if *show != "" {
		go func() { panic(http.ListenAndServe(*show, http.HandlerFunc(all.show))) }()
	}
	return serve(*listen, config, all)
}

var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func serve(listen string, config *tls.Config, all *board) error {
	handler := func(answer http.ResponseWriter, request *http.Request) {
		if request.Method != http.MethodPost {
			all.show(answer, request)
			return
		}
		body := bodies.Get().(*bytes.Buffer)
		body.Reset()
		defer bodies.Put(body)
		if _, err := io.Copy(body, request.Body); err != nil {
			http.Error(answer, err.Error(), http.StatusBadRequest)
			return
		}
		name := request.URL.Path[1:]
		all.take(name, body.Bytes())
		if whole, _, parts := strings.Cut(name, "/"); parts {
			all.take(whole, body.Bytes())
		}
	}
	server := &http.Server{Addr: listen, Handler: http.HandlerFunc(handler), TLSConfig: config}
	if config != nil {
		return server.ListenAndServeTLS("", "")
	}
	return server.ListenAndServe()
}
