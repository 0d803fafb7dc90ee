package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	payloadBytes = 200
	window       = 4096 // unacknowledged of one connection
)

// load is what one publisher sends: ids from first on, each on the topic of its device.
type load struct {
	broker      string
	first       int64
	count       int64
	rate        float64
	connections int
	topics      int
	pattern     string
	stopped     atomic.Bool
	published   atomic.Int64
}

// publish sends at a rate, or as fast as it is acknowledged, until count is reached or SIGTERM comes.
//
// A topic belongs to one connection, as a device does. It says when it began and how many ids it has sent, all of them
// acknowledged.
func publish(flags *flag.FlagSet, arguments []string) error {
	var one load
	flags.StringVar(&one.broker, "broker", "", "host:port")
	flags.Int64Var(&one.first, "first", 0, "first id")
	flags.Int64Var(&one.count, "count", maxID, "messages")
	flags.Float64Var(&one.rate, "rate", 0, "messages a second of all connections; 0: no limit")
	flags.IntVar(&one.connections, "connections", 4, "connections")
	flags.IntVar(&one.topics, "topics", 100, "topics")
	flags.StringVar(&one.pattern, "pattern", "sensors/edge-1/sensor-%04d/humidity", "topic by number")
	secured := identityFlags(flags)
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if one.topics < one.connections {
		return fmt.Errorf("-topics %d, expected at least one for each of %d connections", one.topics, one.connections)
	}
	config, err := secured.config()
	if err != nil {
		return err
	}
	sessions := make([]*session, one.connections)
	for number := range sessions {
		if sessions[number], err = open(one.broker, config, fmt.Sprintf("publisher-%d", number)); err != nil {
			return err
		}
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() { <-stop; one.stopped.Store(true) }()

	began := time.Now()
	failures := make(chan error, one.connections)
	var running sync.WaitGroup
	for number, each := range sessions {
		running.Go(func() {
			if err := one.run(each, number, began); err != nil {
				failures <- err
			}
		})
	}
	running.Wait()
	select {
	case err := <-failures:
		return err
	default:
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]int64{
		"began":     began.UnixNano(),
		"published": one.published.Load(),
	})
}

func (one *load) run(to *session, number int, began time.Time) error {
	room := make(chan struct{}, window)
	broken := make(chan error, 1)
	go func() { broken <- acknowledged(to, room) }()
	topics := make([]string, 0, one.topics/one.connections+1)
	for topic := number; topic < one.topics; topic += one.connections {
		topics = append(topics, fmt.Sprintf(one.pattern, topic))
	}
	sent, buffer := 0, make([]byte, 0, payloadBytes)
	for id := int64(number); id < one.count && !one.stopped.Load(); id += int64(one.connections) {
		if one.rate > 0 {
			due := began.Add(time.Duration(float64(id) / one.rate * float64(time.Second)))
			if wait := time.Until(due); wait > 0 {
				if err := to.out.Flush(); err != nil {
					return err
				}
				time.Sleep(wait)
			}
		}
		select {
		case room <- struct{}{}:
		default: // the window is full: what waits in the buffer has to leave before anything is acknowledged
			if err := to.out.Flush(); err != nil {
				return err
			}
			select {
			case room <- struct{}{}:
			case err := <-broken:
				return err
			}
		}
		if err := to.publish(topics[sent%len(topics)], uint16(sent%0xFFFF+1), reading(buffer, one.first+id)); err != nil {
			return err
		}
		sent++
	}
	if err := to.out.Flush(); err != nil {
		return err
	}
	for range window { // each place that we get back is an acknowledgement
		select {
		case room <- struct{}{}:
		case err := <-broken:
			return err
		case <-time.After(time.Minute):
			return fmt.Errorf("%d messages were sent and not all acknowledged within a minute", sent)
		}
	}
	one.published.Add(int64(sent))
	return nil
}

// acknowledged gives a place back for each PUBACK.
func acknowledged(from *session, room <-chan struct{}) error {
	for {
		kind, _, err := from.read()
		if err != nil {
			return err
		}
		if kind == pubackPacket {
			<-room
		}
	}
}

// reading is JSON of exactly payloadBytes with id and time of sending, in a buffer that is used again and again.
func reading(buffer []byte, id int64) []byte {
	body := strconv.AppendInt(append(buffer[:0], `{"id":`...), id, 10)
	body = strconv.AppendInt(append(body, `,"sentAt":`...), time.Now().UnixNano(), 10)
	body = strconv.AppendInt(append(body, `,"value":`...), id%100, 10)
	body = append(body, `.5,"unit":"%","pad":"`...)
	body = append(body, padding[:payloadBytes-2-len(body)]...)
	return append(body, `"}`...)
}

var padding = strings.Repeat("x", payloadBytes)
