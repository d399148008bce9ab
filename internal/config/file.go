package config

import (
	"fmt"
	"os"
	"sort"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds a settings file, in bytes.
const maxFile = 1 << 20

// LoadFile reads a YAML settings file: one mapping whose keys are flag names
// without dashes. It returns the values as text, as a flag would give them;
// lists become comma lists. An unknown or repeated key, or a value that is no
// scalar or list of scalars, is an error that names file and line.
func LoadFile(path string) (map[string]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("settings file: %w", err)
	}
	if info.IsDir() || info.Size() > maxFile {
		return nil, fmt.Errorf("settings file %s: is a directory or larger than %s", path, Size(maxFile))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("settings file: %w", err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("settings file %s: %s", path, strings.Join(strings.Fields(err.Error()), " "))
	}
	if len(doc.Content) == 0 {
		return map[string]string{}, nil
	}
	return settings(path, doc.Content[0])
}

func settings(path string, root *yaml.Node) (map[string]string, error) {
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d: expected lines of the form \"flag-name: value\"", path, root.Line)
	}
	known := fields()
	out := map[string]string{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		if _, ok := known[key.Value]; !ok {
			return nil, fmt.Errorf("%s:%d: unknown setting %q; use one of %s", path, key.Line, key.Value, strings.Join(names(), ", "))
		}
		if _, twice := out[key.Value]; twice {
			return nil, fmt.Errorf("%s:%d: setting %q is given twice", path, key.Line, key.Value)
		}
		text, err := scalar(value)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: setting %q: %w", path, value.Line, key.Value, err)
		}
		out[key.Value] = text
	}
	return out, nil
}

func scalar(n *yaml.Node) (string, error) {
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "", fmt.Errorf("has no value; remove the line or give one")
		}
		return n.Value, nil
	case yaml.SequenceNode:
		parts := make([]string, 0, len(n.Content))
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode {
				return "", fmt.Errorf("a list may only hold plain values")
			}
			parts = append(parts, item.Value)
		}
		return strings.Join(parts, ","), nil
	}
	return "", fmt.Errorf("expected a plain value or a list")
}

func names() []string {
	var out []string
	for name := range fields() {
		out = append(out, name)
	}
	sort.Strings(out)
	return out
}
