package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"os"
)

// identity names PEM files; without a certificate connections are plain.
type identity struct{ certificate, key, roots string }

func identityFlags(flags *flag.FlagSet) *identity {
	var one identity
	flags.StringVar(&one.certificate, "cert", "", "PEM file of the own certificate; none: no TLS")
	flags.StringVar(&one.key, "key", "", "PEM file of its key")
	flags.StringVar(&one.roots, "ca", "", "PEM file of the roots of the other side")
	return &one
}

// config is for either side of mutual TLS; nil where there is no certificate.
func (one *identity) config() (*tls.Config, error) {
	if one.certificate == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(one.certificate, one.key)
	if err != nil {
		return nil, err
	}
	roots, err := os.ReadFile(one.roots)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(roots) {
		return nil, fmt.Errorf("%s holds no certificate", one.roots)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
		RootCAs:      pool,
		ServerName:   "localhost",
	}, nil
}
