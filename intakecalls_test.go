package main

import "testing"

// callsConn counts what a server asks of its connection: on a socket each of these is a system call.
type callsConn struct {
	*requestConn
	reads, writes int
}

func (c *callsConn) Read(b []byte) (int, error) {
	c.reads++
	return c.requestConn.Read(b)
}

func (c *callsConn) Write(b []byte) (int, error) {
	c.writes++
	return c.requestConn.Write(b)
}

// TestIntakeReadsOnceAndWritesOnce: on a connection that stays, a payment costs two system calls.
func TestIntakeReadsOnceAndWritesOnce(t *testing.T) {
	const payments = 1000
	s, l, _ := intakeOnly(t, 1<<17)
	c := &callsConn{requestConn: newRequestConn()}
	c.left = payments
	if err := s.ServeConn(c); err != nil {
		t.Fatal(err)
	}
	if got := l.appended(); got != payments || c.accepted != payments {
		t.Fatalf("%d slots, %d answers", got, c.accepted)
	}
	if c.reads != payments+1 || c.writes != payments { // the last one finds the connection's end
		t.Errorf("%d reads and %d writes for %d payments", c.reads, c.writes, payments)
	}
}
