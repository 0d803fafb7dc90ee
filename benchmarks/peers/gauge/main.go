// gauge publishes, receives and counts for the benchmarks of the relay, and posts as its peers do.
//
// It uses nothing but Go's standard library, so that tools cost little beside what they measure.
package main

import (
	"flag"
	"fmt"
	"os"
	"sort"
)

var commands = map[string]func(*flag.FlagSet, []string) error{
	"publish": publish,
	"count":   count,
	"sink":    sink,
	"post":    post,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		names := make([]string, 0, len(commands))
		for name := range commands {
			names = append(names, name)
		}
		sort.Strings(names)
		fmt.Fprintf(os.Stderr, "usage: gauge <command> [flags], where <command> is one of %v\n", names)
		os.Exit(2)
	}
	name := os.Args[1]
	if err := commands[name](flag.NewFlagSet(name, flag.ExitOnError), os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "gauge %s: %v\n", name, err)
		os.Exit(1)
	}
}
