package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"
)

func body(ids ...int) []byte {
	var all [][]byte
	for _, id := range ids {
		all = append(all, fmt.Appendf(nil, `{"id":%d,"sentAt":%d}`, id, 1_000_000))
	}
	return append(append([]byte("["), bytes.Join(all, []byte(","))...), ']')
}

func TestLostAndRepeatedIDsAreSeen(t *testing.T) {
	all := newBoard()
	all.take("a", body(0, 1, 3, 64, 1000))
	all.take("a", body(3, 2))
	all.take("b", body(1))
	one := all.names["a"]
	if one.Unique != 6 || one.Duplicate != 1 || one.Strange != 0 {
		t.Errorf("6 different ids, 1 again: %d, %d, strange %d", one.Unique, one.Duplicate, one.Strange)
	}
	if all.names["b"].Unique != 1 {
		t.Error("names are counted together")
	}
}

func TestBodiesOfAllPeersAreRead(t *testing.T) {
	for _, each := range []string{
		`{"id":7,"sentAt":5,"value":1.5}`,
		"{\"id\":7,\"sentAt\":5}\n{\"id\":8,\"sentAt\":5}\n",
		`{"metrics":[{"fields":{"id":7,"sentAt":1700000000000000000,"value":1},"name":"mqtt_consumer"}]}`,
		`[{"device":"d","payload":{"id": 7,"sentAt": 5}}]`,
	} {
		var one counts
		one.take([]byte(each), 10)
		if one.seen[0]&(1<<7) == 0 || one.Strange != 0 {
			t.Errorf("no id 7 in %s", each)
		}
	}
}

func TestBodiesWithoutIDsAreStrange(t *testing.T) {
	for _, each := range []string{"", "[]", `{"id":"seven"}`, `{"id":7}`, `{"id":99999999999,"sentAt":1}`} {
		var one counts
		one.take([]byte(each), 10)
		if one.Strange != 1 || one.Unique != 0 {
			t.Errorf("%q: strange %d, unique %d", each, one.Strange, one.Unique)
		}
	}
}

func TestQuantilesAreThoseOfTheWindow(t *testing.T) {
	var one counts
	for id := range int64(100) {
		one.note(id, 0, (id+1)*1_000_000) // 1 to 100 ms
	}
	one.measure()
	for _, each := range []struct{ got, want int64 }{{one.P50, 51_000}, {one.P99, 100_000}, {one.Max, 100_000}} {
		if each.got < each.want*98/100 || each.got > each.want*102/100 {
			t.Errorf("%d us, expected %d", each.got, each.want)
		}
	}
}

func TestPublisherAndSubscriberUnderstandEachOther(t *testing.T) {
	here, there := net.Pipe()
	sending := &session{Conn: here, in: bufio.NewReader(here), out: bufio.NewWriter(here)}
	receiving := &session{Conn: there, in: bufio.NewReader(there), out: bufio.NewWriter(there)}
	wanted := bytes.Clone(reading(nil, 42))
	go func() {
		_ = sending.publish("sensors/1", 5, wanted)
		_ = sending.out.Flush()
	}()
	payload, err := receiving.receive()
	if err != nil || !bytes.Equal(payload, wanted) {
		t.Fatalf("%s, %v", payload, err)
	}
	go func() { _ = receiving.out.Flush() }()
	kind, acknowledged, err := sending.read()
	if err != nil || kind != pubackPacket || !bytes.Equal(acknowledged, []byte{0, 5}) {
		t.Errorf("%#x %v, %v", kind, acknowledged, err)
	}
}

func TestAReadingHasItsLengthAndID(t *testing.T) {
	for _, id := range []int64{0, 99, maxID - 1} {
		var one counts
		got := reading(nil, id)
		one.take(got, time.Now().UnixNano())
		if len(got) != payloadBytes || one.Unique != 1 || one.seen[id/64] == 0 {
			t.Errorf("%d: %d bytes, %s", id, len(got), got)
		}
	}
}
