package main

import (
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"os"
	"strings"
	"time"
)

// A report is a storm in numbers that can be drawn. The same numbers give the same picture.
type report struct {
	verdict   verdict
	storm     storm
	lasted    time.Duration // of the load
	every     time.Duration // what a bucket covers; there are as many as it takes until the last payment was sent
	accepted  []float64     // a second, by bucket, each payment at the moment when it was due
	refused   []float64     // not accepted, or never answered
	latency   []quantiles   // of clients; all zero where there was none
	paid      [processors][]float64
	instances []string // whose estimates the samples have
	samples   []sighting
	looks     []look
	events    []event
}

// writeReport draws what was recorded into a file, if it is asked for.
func writeReport(path string, rec *recorder, v verdict) error {
	if path == "" {
		return nil
	}
	rec.report.verdict = v
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("cannot write report: %w", err)
	}
	page := "page"
	if strings.HasSuffix(path, ".svg") {
		page = "picture"
	}
	if err := errors.Join(rec.report.write(f, page), f.Close()); err != nil {
		return fmt.Errorf("cannot write report: %w", err)
	}
	return nil
}

//go:embed report.tmpl
var reportTemplate string

// write draws one of the template's two forms: the picture, or a page around it.
func (rep *report) write(w io.Writer, form string) error {
	t, err := template.New("report").Parse(reportTemplate)
	if err != nil {
		return err
	}
	return t.ExecuteTemplate(w, form, newFigure(rep))
}
