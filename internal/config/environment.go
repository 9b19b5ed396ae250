package config

import "strings"

// Environment is what the environment of a process says: values by name. It is an envconfig.Lookuper that can also be looked through.
type Environment map[string]string

// Environ reads lines like NAME=value, as os.Environ gives them.
func Environ(lines []string) Environment {
	e := Environment{}
	for _, line := range lines {
		if name, value, ok := strings.Cut(line, "="); ok && name != "" {
			e[name] = value
		}
	}
	return e
}

// Lookup finds one variable.
func (e Environment) Lookup(name string) (string, bool) {
	value, ok := e[name]
	return value, ok
}
