package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxLine bounds a line in bytes: the largest value in base64 and then some.
const maxLine = 16 << 20

var errLongLine = fmt.Errorf("the line is longer than %d bytes", maxLine)

// lineReader reads lines and counts them from 1.
type lineReader struct {
	r    *bufio.Reader
	line int64 // number of the line that next returned last
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 256<<10)}
}

// next returns the next line without its end, and its length with it. A line
// that is too long is passed over: its beginning comes with errLongLine. The
// last line needs no end. The line is the caller's.
func (l *lineReader) next() (line []byte, length int64, err error) {
	long := false
	for {
		part, err := l.r.ReadSlice('\n')
		length += int64(len(part))
		if room := maxLine - len(line); len(part) <= room {
			line = append(line, part...)
		} else {
			line, long = append(line, part[:room]...), true
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && !(errors.Is(err, io.EOF) && length > 0) {
			return nil, length, err
		}
		l.line++
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if long {
			return line, length, errLongLine
		}
		return line, length, nil
	}
}

// record is one line to write.
type record struct {
	line        int64
	settled     settled
	key         string
	value       []byte
	contentType string
}

// parse makes a record of a line.
func (c *loadCmd) parse(text []byte) (record, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return record{}, fmt.Errorf("no JSON object: %w", err)
	}
	key, _, err := scalarText(fields[c.KeyField])
	if err != nil {
		return record{}, fmt.Errorf("field %q: %w", c.KeyField, err)
	}
	if len(key) == 0 || string(key) == "null" {
		return record{}, fmt.Errorf("field %q holds no key", c.KeyField)
	}
	r := record{key: string(key), value: text, contentType: "application/json"}
	if c.Raw {
		return r, nil
	}
	raw, ok := fields[c.ValueField]
	if !ok {
		return record{}, fmt.Errorf("field %q is missing", c.ValueField)
	}
	value, isString, err := scalarText(raw)
	if err != nil {
		return record{}, fmt.Errorf("field %q: %w", c.ValueField, err)
	}
	r.value = value
	if isString {
		r.contentType = "text/plain; charset=utf-8"
	}
	return r, c.decorate(&r, fields)
}

// decorate applies the optional fields encoding and content_type.
func (c *loadCmd) decorate(r *record, fields map[string]json.RawMessage) error {
	encoding, _, err := scalarText(fields["encoding"])
	if err != nil {
		return errors.New("field \"encoding\" is no text")
	}
	switch string(encoding) {
	case "", "utf-8":
	case "base64":
		if r.value, err = base64.StdEncoding.DecodeString(string(r.value)); err != nil {
			return fmt.Errorf("field %q is not base64: %w", c.ValueField, err)
		}
		r.contentType = "application/octet-stream"
	default:
		return fmt.Errorf("encoding %q is unknown; use utf-8 or base64", encoding)
	}
	contentType, _, err := scalarText(fields["content_type"])
	if err != nil {
		return errors.New("field \"content_type\" is no text")
	}
	if len(contentType) > 0 {
		r.contentType = string(contentType)
	}
	return nil
}

// replacement is what decoders put for bytes that are no text.
const replacement = "\ufffd"

// scalarText is a JSON string's text, or the JSON itself of anything else.
func scalarText(raw json.RawMessage) (text []byte, isString bool, err error) {
	if len(raw) == 0 || raw[0] != '"' {
		return raw, false, nil
	}
	var s string
	if err = json.Unmarshal(raw, &s); err != nil {
		return nil, true, err
	}
	// The decoder replaces what is no text; a store must not.
	spelled := strings.Count(string(raw), replacement) + strings.Count(strings.ToLower(string(raw)), `\ufffd`)
	if strings.Count(s, replacement) > spelled {
		return nil, true, errors.New("the text is not UTF-8; use \"encoding\":\"base64\" for bytes")
	}
	return []byte(s), true, nil
}
