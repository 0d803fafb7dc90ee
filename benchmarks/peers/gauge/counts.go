package main

import (
	"bytes"
	"encoding/json"
	"math"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	maxID       = 1 << 30
	bucketWidth = 1.01 // quantiles are right to one percent
	buckets     = 2500 // 1.01^2500 microseconds is a day
)

var logWidth = math.Log(bucketWidth)

// counts knows which ids came, and how long they took since the last window began.
type counts struct {
	seen      []uint64
	window    [buckets]int
	Unique    int   `json:"unique"`
	Duplicate int   `json:"duplicates"`
	Strange   int   `json:"strange"` // bodies without an id
	First     int64 `json:"first"`   // when the first id came, Unix nanoseconds
	Last      int64 `json:"last"`    // when the last new id came
	P50       int64 `json:"p50"`     // microseconds
	P99       int64 `json:"p99"`
	Max       int64 `json:"max"`
}

// take notes every reading of a body: an array, lines or one object, plain or wrapped in other JSON.
func (one *counts) take(body []byte, now int64) {
	found := false
	for {
		id, rest, ok := member(body, `"id":`)
		if !ok {
			break
		}
		sentAt, rest, ok := member(rest, `"sentAt":`)
		if !ok || id >= maxID {
			found = false
			break
		}
		found = true
		one.note(id, sentAt, now)
		body = rest
	}
	if !found {
		one.Strange++
	}
}

func (one *counts) note(id, sentAt, now int64) {
	word, bit := int(id/64), uint64(1)<<(id%64)
	if word >= len(one.seen) {
		one.seen = append(one.seen, make([]uint64, word+1-len(one.seen)+len(one.seen)/2)...)
	}
	if one.seen[word]&bit != 0 {
		one.Duplicate++
		return
	}
	one.seen[word] |= bit
	if one.Unique == 0 {
		one.First = now
	}
	one.Unique++
	one.Last = now
	us := max(1, (now-sentAt)/1000)
	one.window[min(buckets-1, int(math.Log(float64(us))/logWidth))]++
	one.Max = max(one.Max, us)
}

// measure sets the quantiles of the window.
func (one *counts) measure() {
	total := 0
	for _, number := range one.window {
		total += number
	}
	below := 0
	one.P50, one.P99 = 0, 0
	for bucket, number := range one.window {
		top := int64(math.Ceil(math.Pow(bucketWidth, float64(bucket+1))))
		if one.P50 == 0 && below+number > total/2 {
			one.P50 = top
		}
		if one.P99 == 0 && below+number > total*99/100 {
			one.P99 = top
		}
		below += number
	}
}

// member reads the number of the next member of this name, and returns what follows it.
func member(body []byte, name string) (value int64, rest []byte, ok bool) {
	at := bytes.Index(body, []byte(name))
	if at < 0 {
		return 0, nil, false
	}
	body = bytes.TrimLeft(body[at+len(name):], " ")
	digits := 0
	for digits < len(body) && digits < 19 && body[digits] >= '0' && body[digits] <= '9' {
		value = value*10 + int64(body[digits]-'0')
		digits++
	}
	return value, body[digits:], digits > 0
}

// board holds counts by name and shows them: GET tells, PUT begins a new window of latencies, DELETE begins anew.
type board struct {
	mutex sync.Mutex
	names map[string]*counts
}

func newBoard() *board { return &board{names: map[string]*counts{}} }

func (all *board) take(name string, body []byte) {
	now := time.Now().UnixNano()
	all.mutex.Lock()
	defer all.mutex.Unlock()
	all.of(name).take(body, now)
}

func (all *board) of(name string) *counts {
	one := all.names[name]
	if one == nil {
		one = &counts{}
		all.names[name] = one
	}
	return one
}

func (all *board) show(answer http.ResponseWriter, request *http.Request) {
	name := strings.Trim(request.URL.Path, "/")
	all.mutex.Lock()
	defer all.mutex.Unlock()
	one := all.of(name)
	switch request.Method {
	case http.MethodDelete:
		delete(all.names, name)
	case http.MethodPut:
		one.window, one.Max = [buckets]int{}, 0
	}
	one.measure()
	answer.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(answer).Encode(one) // who asked has gone: nobody misses it
}
