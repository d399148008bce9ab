package main

import (
	"bytes"
	"fmt"
	"image"
	"image/draw"
	"image/png"
	"io"
	"math"
	"os"

	"github.com/wcharczuk/go-chart/v2"
	"github.com/wcharczuk/go-chart/v2/drawing"
)

// Size of the plot in pixels: two panels in a row.
const (
	panelWidth   = 620
	panelHeight  = 300
	panelsInARow = 2
)

// save writes the plot to a file, if one is named.
func (g *growth) save(path string) error {
	if path == "" {
		return nil
	}
	var b bytes.Buffer
	if err := g.plot(&b); err != nil {
		return fmt.Errorf("--plot: %w", err)
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// plot writes a PNG with a panel for each series: CPU of a PUT and of a GET.
func (g *growth) plot(w io.Writer) error {
	rows := (len(g.Series) + panelsInARow - 1) / panelsInARow
	all := image.NewRGBA(image.Rect(0, 0, panelsInARow*panelWidth, rows*panelHeight))
	draw.Draw(all, all.Bounds(), image.White, image.Point{}, draw.Src)
	n := 0
	for _, c := range curves {
		s := g.series(c.name)
		if s == nil {
			continue
		}
		panel, err := s.panel(c.what)
		if err != nil {
			return err
		}
		at := image.Pt(n%panelsInARow*panelWidth, n/panelsInARow*panelHeight)
		draw.Draw(all, panel.Bounds().Add(at), panel, image.Point{}, draw.Src)
		n++
	}
	return png.Encode(w, all)
}

func (s *series) panel(what string) (image.Image, error) {
	top := 0.0
	var ticks []chart.Tick
	put := chart.ContinuousSeries{Name: "PUT", Style: curveStyle(chart.ColorBlue)}
	get := chart.ContinuousSeries{Name: "GET, newest", Style: curveStyle(chart.ColorOrange)}
	for _, p := range s.Points {
		x := math.Log10(float64(p.X)) // go-chart's own logarithmic axis is none below 1
		ticks = append(ticks, chart.Tick{Value: x, Label: short(p.X)})
		for load, c := range map[string]*chart.ContinuousSeries{loadPut: &put, loadGet: &get} {
			y := median(p.of(load, cpuOf))
			top = max(top, y)
			c.XValues, c.YValues = append(c.XValues, x), append(c.YValues, y)
		}
	}
	if len(ticks) == 1 { // one point is no range
		ticks = append(ticks, chart.Tick{Value: ticks[0].Value + 1})
	}
	c := &chart.Chart{
		Width: panelWidth, Height: panelHeight,
		Background: chart.Style{Padding: chart.Box{Top: 45, Left: 20, Right: 25, Bottom: 10}},
		XAxis:      chart.XAxis{Name: what, Ticks: ticks},
		YAxis:      chart.YAxis{Range: &chart.ContinuousRange{Min: 0, Max: max(1.1*top, 1)}, ValueFormatter: func(v any) string { return count(int(v.(float64))) }},
		Series:     []chart.Series{put, get},
		Elements:   []chart.Renderable{heading([]chart.ContinuousSeries{put, get})},
	}
	out := &chart.ImageWriter{}
	if err := c.Render(chart.PNG, out); err != nil {
		return nil, err
	}
	return out.Image()
}

// short is a label that leaves room for its neighbours: 2M.
func short(n int) string {
	switch {
	case n > 0 && n%1_000_000 == 0:
		return count(n/1_000_000) + "M"
	case n > 0 && n%1000 == 0:
		return count(n/1000) + "k"
	}
	return count(n)
}

func curveStyle(colour drawing.Color) chart.Style {
	return chart.Style{StrokeColor: colour, StrokeWidth: 2, DotColor: colour, DotWidth: 3}
}

// heading is what the panel shows and a legend, above the chart.
func heading(curves []chart.ContinuousSeries) chart.Renderable {
	return func(r chart.Renderer, box chart.Box, defaults chart.Style) {
		text := chart.Style{FontSize: 10, FontColor: chart.ColorBlack}.InheritFrom(defaults)
		chart.Draw.Text(r, "us of CPU for each operation, all servers", box.Left, 20, text)
		x := box.Left + 310
		for _, s := range curves {
			r.SetStrokeColor(s.Style.StrokeColor)
			r.SetStrokeWidth(3)
			r.MoveTo(x, 16)
			r.LineTo(x+20, 16)
			r.Stroke()
			chart.Draw.Text(r, s.Name, x+26, 20, text)
			x += 80
		}
	}
}
