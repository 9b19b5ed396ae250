package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"iter"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
)

// tablePage is how many rows are laid out at once: a list of any length needs the memory of these.
const tablePage = 500

// column is one of a list that people read.
type column struct {
	name     string
	min, max int // characters; what is longer is wrapped. 0: as it comes
}

// limitFlag adds --limit. The function tells it, once the flags are read: 0 for all.
func limitFlag(c *cobra.Command, usual int, what string) func(output string) (int, error) {
	limit := c.Flags().Int("limit", usual, "how many "+what+" to show; 0: all, which is what --output json shows unless told otherwise")
	return func(output string) (int, error) {
		switch {
		case *limit < 0:
			return 0, usageError{fmt.Errorf("--limit %d is less than none\n\nHelp: %s --help", *limit, c.CommandPath())}
		case output == "json" && !c.Flags().Changed("limit"):
			return 0, nil
		}
		return *limit, nil
	}
}

// printTable lays rows out as they come and says how many there were. Cells are cleaned: what they show may be anybody's text,
// and a terminal obeys some of it.
func printTable[T any](w io.Writer, columns []column, rows iter.Seq2[T, error], cells func(T) []string) (n int, err error) {
	var page []table.Row
	flush := func() {
		if len(page) == 0 {
			return
		}
		t := table.NewWriter()
		t.SetOutputMirror(w)
		t.SetStyle(table.StyleLight)
		t.Style().Options = table.OptionsNoBordersAndSeparators
		t.Style().Format.Header = text.FormatDefault
		header, configs := make(table.Row, len(columns)), make([]table.ColumnConfig, len(columns))
		for i, c := range columns {
			header[i] = c.name
			configs[i] = table.ColumnConfig{Number: i + 1, WidthMin: c.min, WidthMax: c.max, WidthMaxEnforcer: text.WrapSoft}
		}
		if n <= tablePage {
			t.AppendHeader(header)
		}
		t.SetColumnConfigs(configs)
		t.AppendRows(page)
		t.Render()
		page = page[:0]
	}
	for row, err := range rows {
		if err != nil {
			return n, err
		}
		n++
		var line table.Row
		for _, cell := range cells(row) {
			line = append(line, clean(cell))
		}
		if page = append(page, line); len(page) == tablePage {
			flush()
		}
	}
	flush()
	return n, nil
}

// printJSON writes head, a JSON object, with the rows added to it under key, as they come.
func printJSON[T, R any](w io.Writer, head any, key string, rows iter.Seq2[T, error], item func(T) R) error {
	object, err := json.Marshal(head)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	separator := ","
	if string(object) == "{}" {
		separator = ""
	}
	fmt.Fprintf(out, "%s%s%q:[", object[:len(object)-1], separator, key)
	separator = ""
	for row, err := range rows {
		if err != nil {
			return err
		}
		raw, err := json.Marshal(item(row))
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s%s", separator, raw) // what cannot be written, Flush reports
		separator = ","
	}
	fmt.Fprintln(out, "]}")
	return out.Flush()
}
