package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAlarmsAboutManyPaymentsAreAFewLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lines
		log := newAlarms(out.logger()).With("journal", "x")
		for range 1000 {
			log.Error("refused")
		}
		log.Error("something else")
		if n := strings.Count(out.String(), "refused"); n != alarmsPerSpan {
			t.Errorf("%d lines", n)
		}
		if !strings.Contains(out.String(), "something else") {
			t.Error("another message was dropped with them")
		}
		time.Sleep(alarmSpan)
		log.Error("refused")
		if !strings.Contains(out.String(), "not_shown_before=990") {
			t.Errorf("nobody learns of the others:\n%s", out.String())
		}
	})
}
