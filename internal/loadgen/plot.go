package loadgen

import (
	"errors"
	"fmt"
	"image"
	"image/draw"
	"image/png"
	"io"
	"math"

	"github.com/wcharczuk/go-chart/v2"
	"github.com/wcharczuk/go-chart/v2/drawing"
)

// Size of a plot in pixels: two panels, one above the other.
const (
	plotWidth   = 1100
	panelHeight = 380
)

// ErrTooShort tells that a run has too few seconds for a plot.
var ErrTooShort = errors.New("a plot needs a run of two seconds at least")

// Plot writes a PNG of r: latency over time above (logarithmic), rate and
// errors below.
func Plot(w io.Writer, r *Result) error {
	if len(r.Series) < 2 {
		return ErrTooShort
	}
	latency, err := render(r, latencyPanel(r))
	if err != nil {
		return fmt.Errorf("plot: %w", err)
	}
	rate, err := render(r, ratePanel(r))
	if err != nil {
		return fmt.Errorf("plot: %w", err)
	}
	both := image.NewRGBA(image.Rect(0, 0, plotWidth, 2*panelHeight))
	draw.Draw(both, both.Bounds(), image.White, image.Point{}, draw.Src)
	draw.Draw(both, image.Rect(0, 0, plotWidth, panelHeight), latency, image.Point{}, draw.Src)
	draw.Draw(both, image.Rect(0, panelHeight, plotWidth, 2*panelHeight), rate, image.Point{}, draw.Src)
	return png.Encode(w, both)
}

func render(r *Result, c *chart.Chart) (image.Image, error) {
	c.Width, c.Height = plotWidth, panelHeight
	c.Background = chart.Style{Padding: chart.Box{Top: 55, Left: 20, Right: 25, Bottom: 10}}
	c.XAxis = chart.XAxis{Name: "seconds", Ticks: seconds(r.Series[len(r.Series)-1].At)}
	c.Elements = []chart.Renderable{heading(c)}
	out := &chart.ImageWriter{}
	if err := c.Render(chart.PNG, out); err != nil {
		return nil, err
	}
	return out.Image()
}

// seconds are at most some twenty ticks on whole seconds, from 0 to the first
// that is not before end: they are the range of the axis.
func seconds(end float64) (ticks []chart.Tick) {
	step := 1.0
	for i := 0; end/step > 20; i++ {
		step *= []float64{2, 2.5, 2}[i%3] // 2, 5, 10, 20, 50, ...
	}
	for at := 0.0; ; at += step {
		ticks = append(ticks, chart.Tick{Value: at, Label: fmt.Sprintf("%.0f", at)})
		if at >= end-0.1 {
			return ticks
		}
	}
}

// heading draws the title and a legend into the space above the chart.
func heading(c *chart.Chart) chart.Renderable {
	title := c.Title
	c.Title = ""
	return func(r chart.Renderer, box chart.Box, defaults chart.Style) {
		text := chart.Style{FontSize: 10, FontColor: chart.ColorBlack}.InheritFrom(defaults)
		chart.Draw.Text(r, title, box.Left, 20, text)
		x := box.Left
		for _, s := range c.Series {
			stroke := s.GetStyle()
			r.SetStrokeColor(stroke.StrokeColor)
			r.SetStrokeWidth(3)
			r.MoveTo(x, 38)
			r.LineTo(x+20, 38)
			r.Stroke()
			chart.Draw.Text(r, s.GetName(), x+26, 42, text)
			x += 130
		}
	}
}

// line is one series of r, over the ends of its seconds.
func line(r *Result, name string, colour drawing.Color, value func(Point) float64) chart.ContinuousSeries {
	s := chart.ContinuousSeries{Name: name, Style: chart.Style{StrokeColor: colour, StrokeWidth: 2}}
	for _, p := range r.Series {
		s.XValues = append(s.XValues, p.At)
		s.YValues = append(s.YValues, value(p))
	}
	return s
}

func latencyPanel(r *Result) *chart.Chart {
	low, high := math.Inf(1), math.Inf(-1)
	magnitude := func(us float64) float64 { // go-chart's own logarithmic axis is none below 1
		m := math.Log10(max(us, 1))
		low, high = min(low, math.Floor(m)), max(high, math.Ceil(m))
		return m
	}
	series := []chart.Series{
		line(r, "p50", chart.ColorGreen, func(p Point) float64 { return magnitude(p.P50) }),
		line(r, "p99", chart.ColorOrange, func(p Point) float64 { return magnitude(p.P99) }),
		line(r, "max", chart.ColorRed, func(p Point) float64 { return magnitude(p.Max) }),
	}
	if high <= low {
		high = low + 1
	}
	var ticks []chart.Tick
	for m := low; m <= high; m++ {
		ticks = append(ticks, chart.Tick{Value: m, Label: fmt.Sprintf("%g ms", math.Pow(10, m)/1e3)})
	}
	return &chart.Chart{
		Title: "Latency of " + r.Spec.String(), Series: series,
		YAxis: chart.YAxis{Range: &chart.ContinuousRange{Min: low, Max: high}, Ticks: ticks},
	}
}

func ratePanel(r *Result) *chart.Chart {
	top := 1.0
	seen := func(v float64) float64 {
		top = max(top, v)
		return v
	}
	series := []chart.Series{
		line(r, "operations/s", chart.ColorBlue, func(p Point) float64 { return seen(p.Rate) }),
		line(r, "errors", chart.ColorRed, func(p Point) float64 { return seen(float64(p.Errors)) }),
	}
	return &chart.Chart{
		Title: "Operations per second", Series: series,
		YAxis: chart.YAxis{
			Range:          &chart.ContinuousRange{Min: 0, Max: top * 1.05},
			ValueFormatter: func(v any) string { return fmt.Sprintf("%.0f", v) },
		},
	}
}
