package main

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
)

const (
	connectPacket   = 0x10
	connackPacket   = 0x20
	publishPacket   = 0x30
	pubackPacket    = 0x40
	subscribePacket = 0x82
	subackPacket    = 0x90
	qos1            = 0x02
	bufferBytes     = 64 << 10
)

// session is the part of MQTT 3.1.1 that a benchmark needs.
type session struct {
	net.Conn
	in   *bufio.Reader
	out  *bufio.Writer
	body []byte
}

func open(address string, secured *tls.Config, clientID string) (*session, error) {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	if secured != nil {
		connection = tls.Client(connection, secured)
	}
	one := &session{
		Conn: connection,
		in:   bufio.NewReaderSize(connection, bufferBytes),
		out:  bufio.NewWriterSize(connection, bufferBytes),
	}
	// Clean session, no keep-alive.
	body := append(text("MQTT"), 4, 2, 0, 0)
	if err := one.ask(connectPacket, append(body, text(clientID)...), connackPacket); err != nil {
		return nil, err
	}
	return one, nil
}

func (one *session) subscribe(filter string) error {
	body := append([]byte{0, 1}, text(filter)...)
	return one.ask(subscribePacket, append(body, 1), subackPacket)
}

// ask sends a packet and reads its answer, whose last byte must be a QoS or 0.
func (one *session) ask(kind byte, body []byte, answer byte) error {
	if err := one.write(kind, body); err != nil {
		return err
	}
	if err := one.out.Flush(); err != nil {
		return err
	}
	got, said, err := one.read()
	if err != nil {
		return err
	}
	if got != answer || len(said) < 2 || said[len(said)-1] > 2 {
		return fmt.Errorf("packet %#x was answered with %#x %v", kind, got, said)
	}
	return nil
}

// publish queues a QoS 1 PUBLISH; it is sent with the next flush.
func (one *session) publish(topic string, packetID uint16, payload []byte) error {
	length := 2 + len(topic) + 2 + len(payload)
	head := binary.AppendUvarint([]byte{publishPacket | qos1}, uint64(length)) // MQTT's lengths are LEB128, too
	head = binary.BigEndian.AppendUint16(head, uint16(len(topic)))
	head = append(head, topic...)
	head = binary.BigEndian.AppendUint16(head, packetID)
	if _, err := one.out.Write(head); err != nil {
		return err
	}
	_, err := one.out.Write(payload)
	return err
}

// receive waits for the next PUBLISH, whose payload is good until the next call, and queues its PUBACK, which leaves
// when nothing more is at hand.
func (one *session) receive() ([]byte, error) {
	for {
		if one.in.Buffered() == 0 {
			if err := one.out.Flush(); err != nil {
				return nil, err
			}
		}
		kind, body, err := one.read()
		if err != nil {
			return nil, err
		}
		if kind&0xF0 != publishPacket {
			continue
		}
		if kind&0x06 != qos1 || len(body) < 4 || len(body) < 4+int(binary.BigEndian.Uint16(body)) {
			return nil, fmt.Errorf("packet %#x of %d bytes is no PUBLISH of QoS 1", kind, len(body))
		}
		payload := body[2+int(binary.BigEndian.Uint16(body)):]
		return payload[2:], one.write(pubackPacket, payload[:2])
	}
}

func (one *session) write(kind byte, body []byte) error {
	if _, err := one.out.Write(binary.AppendUvarint([]byte{kind}, uint64(len(body)))); err != nil {
		return err
	}
	_, err := one.out.Write(body)
	return err
}

// read returns a body that is good until the next call.
func (one *session) read() (kind byte, body []byte, err error) {
	if kind, err = one.in.ReadByte(); err != nil {
		return 0, nil, err
	}
	length, err := binary.ReadUvarint(one.in)
	if err != nil {
		return 0, nil, err
	}
	if length > 1<<28 {
		return 0, nil, fmt.Errorf("a packet of %d bytes", length)
	}
	one.body = slices.Grow(one.body[:0], int(length))[:length]
	_, err = io.ReadFull(one.in, one.body)
	return kind, one.body, err
}

func text(value string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(value))), value...)
}
