package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"net/http"
)

// count subscribes at QoS 1 and counts: the limit of a broker.
func count(flags *flag.FlagSet, arguments []string) error {
	show := flags.String("show", "", "host:port of the counts, under the name count")
	one, _, err := subscribed(flags, arguments, "count")
	if err != nil {
		return err
	}
	all := newBoard()
	go func() { panic(http.ListenAndServe(*show, http.HandlerFunc(all.show))) }()
	fmt.Println("ready")
	for {
		payload, err := one.receive()
		if err != nil {
			return err
		}
		all.take("count", payload)
	}
}

// subscribed reads the flags, with those that every reader of a broker has, and subscribes under a name.
func subscribed(flags *flag.FlagSet, arguments []string, name string) (*session, *tls.Config, error) {
	broker := flags.String("broker", "", "host:port")
	filter := flags.String("filter", "#", "topics")
	secured := identityFlags(flags)
	if err := flags.Parse(arguments); err != nil {
		return nil, nil, err
	}
	config, err := secured.config()
	if err != nil {
		return nil, nil, err
	}
	one, err := open(*broker, config, name)
	if err != nil {
		return nil, nil, err
	}
	return one, config, one.subscribe(*filter)
}
