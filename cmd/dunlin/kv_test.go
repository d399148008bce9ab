package main

import (
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dunlindb/dunlin/client"
	"github.com/dunlindb/dunlin/internal/config"
)

func TestBinaryValuesAreDescribed(t *testing.T) {
	for text, binary := range map[string]bool{"plain\ttext\n": false, "ä": false, "\xff": true, "a\x1b[31m": true, "\x00": true} {
		got := readable(client.Sibling{Value: []byte(text), ContentType: "image/png"})
		if strings.HasPrefix(got, "(binary") != binary {
			t.Errorf("%q is shown as %q", text, got)
		}
	}
}

func TestListedKeysAreOneLineEach(t *testing.T) {
	for key, want := range map[string]string{"a/b c": "a/b c", "a\nb": `"a\nb"`, `"a"`: `"\"a\""`, "\xff": `"\xff"`} {
		if got := listed(key); got != want {
			t.Errorf("%q is listed as %s", key, got)
		}
	}
}

func TestQuoteArg(t *testing.T) {
	for s, want := range map[string]string{"a/b": "a/b", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$x": "'$x'"} {
		if got := quoteArg(s); got != want {
			t.Errorf("%q is quoted as %s", s, got)
		}
	}
}

func TestStrangeVariables(t *testing.T) {
	got := strangeVariables([]string{"DUNLIN_W=1", "DUNLIN_URL=x", "DUNLIN_CONFIG=x", "DUNLIN_WW=1", "PATH=/"})
	if !slices.Equal(got, []string{"DUNLIN_WW"}) {
		t.Error(got)
	}
}

func TestVersionLine(t *testing.T) {
	info := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: "true"},
	}}
	if got := versionLine(info); !strings.HasPrefix(got, "dunlin v1.2.3 0123456789ab with local changes go") {
		t.Error(got)
	}
	if got := versionLine(nil); !strings.HasPrefix(got, "dunlin unknown go") {
		t.Error(got)
	}
}

// The defaults that the command line shows and those of the package are one.
func TestFlagDefaultsAreTheDefaults(t *testing.T) {
	for _, name := range config.Variables() {
		t.Setenv(name, "")
	}
	forgetEmptyVariables()
	var got struct {
		config.Config `embed:""`
	}
	parser, err := kong.New(&got, kong.Vars{"hostname": config.Hostname()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(config.Default(), got.Config, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}
