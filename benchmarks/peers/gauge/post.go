package main

import (
	"bytes"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// post sends each message by a POST of its own, without a store and without a second try.
//
// By default it does as KubeEdge's router does: a goroutine and a new http.Client for each message, any answer is a
// success. With -inflight it keeps that many connections. Both acknowledge on receipt, which speaks in their favour.
func post(flags *flag.FlagSet, arguments []string) error {
	target := flags.String("target", "", "URL")
	inflight := flags.Int("inflight", 0, "kept connections; 0: one for each message")
	one, config, err := subscribed(flags, arguments, "post")
	if err != nil {
		return err
	}
	fmt.Println("ready")
	hand := func(payload []byte) { go send(newClient(config), *target, payload) }
	if *inflight > 0 {
		hand = workers(*inflight, config, *target)
	}
	for {
		payload, err := one.receive()
		if err != nil {
			return err
		}
		hand(bytes.Clone(payload))
	}
}

func workers(number int, config *tls.Config, target string) func([]byte) {
	payloads := make(chan []byte, number)
	client := newClient(config)
	client.Transport.(*http.Transport).MaxIdleConnsPerHost = number
	for range number {
		go func() {
			for payload := range payloads {
				send(client, target, payload)
			}
		}()
	}
	return func(payload []byte) { payloads <- payload }
}

func newClient(config *tls.Config) *http.Client {
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, TLSClientConfig: config}}
}

func send(client *http.Client, target string, payload []byte) {
	answer, err := client.Post(target, "application/json", bytes.NewReader(payload))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	_, _ = io.Copy(io.Discard, answer.Body) // any answer is a success
	_ = answer.Body.Close()
}
