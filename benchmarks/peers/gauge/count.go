package main

import (
	"flag"
	"fmt"
	"net/http"
)

// count subscribes at QoS 1 and counts: the limit of a broker.
func count(flags *flag.FlagSet, arguments []string) error {
	broker := flags.String("broker", "", "host:port")
	filter := flags.String("filter", "#", "topics")
	show := flags.String("show", "", "host:port of the counts, under the name count")
	secured := identityFlags(flags)
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	config, err := secured.config()
	if err != nil {
		return err
	}
	one, err := open(*broker, config, "count")
	if err != nil {
		return err
	}
	if err := one.subscribe(*filter); err != nil {
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
