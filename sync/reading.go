package sync

import "fmt"

const (
	// maxPages bounds the pages of one window, whatever the server says.
	maxPages = 10_000
	// maxRereads is how often one window is read again because its rows moved, before it is narrowed.
	maxRereads = 2
)

// RowID is the digest of a whole row. It must leave out what changes from answer to answer without the row being
// updated (signed URL queries), or one row on two pages would pass for two.
type RowID [16]byte

// PageMeta is what one answer said about the window: Total rows in all (total_count). Known is false where it had no such
// number.
type PageMeta struct {
	Known bool
	Total int
}

// Verdict is what to do after a page.
type Verdict int

const (
	// NextPage: ask for the next page, with the same filters.
	NextPage Verdict = iota
	// Whole: every row of the window was seen; the cursor may move over it.
	Whole
	// ReadAgain: the rows moved while they were read. Read the window again from page 1, with a new Reading and the next
	// attempt number.
	ReadAgain
	// Split: the window cannot be shown to be complete. Narrow it.
	Split
)

func (v Verdict) String() string {
	switch v {
	case NextPage:
		return "next page"
	case Whole:
		return "whole"
	case ReadAgain:
		return "read again"
	case Split:
		return "split"
	default:
		return fmt.Sprintf("Verdict(%d)", int(v))
	}
}

// Reading judges the pages of one window, in order, as they are read: is the window whole?
//
// It says Whole for several pages only if the total was the same on each and as many distinct rows were seen. Where the total
// tells the truth and no row comes into the window meanwhile (see Walk.Settled), this proves that none is missing, in whatever
// order the server lists them: rows can only leave, so the same total is the same set of rows.
// One page is one answer, and so one moment.
//
// Records that look alike are told apart only by standing on one page together: a row counts as often as the page that has it
// most often. Twins on two pages therefore leave the window short, and have it split.
type Reading struct {
	perPage, attempt, maxRows int
	single, crosses           bool

	rows      map[RowID]rowCount
	page      uint32 // the current page, from 1
	pageRows  int    // on the current page
	newRows   int    // of these, not seen before
	firstRows int    // on page 1
	distinct  int
	meta      PageMeta // as last seen
}

// rowCount is how often a row stood on the page where it last stood, and on the page that had it most often.
type rowCount struct{ page, here, most uint32 }

// NewReading begins to read the next window of w, with perPage rows asked for. attempt is 0 the first time that this window is
// read, and one more after each ReadAgain; the third reading (attempt 2) that finds the rows moving says Split.
func NewReading(w Walk, perPage, attempt int) *Reading {
	s, _ := w.Window()
	return &Reading{
		perPage: perPage,
		attempt: attempt,
		maxRows: w.maxRows(),
		single:  s.seconds() <= 1,
		crosses: s.crosses(w.Settled),
		rows:    make(map[RowID]rowCount),
		page:    1,
	}
}

// Row takes the next row of the current page.
func (r *Reading) Row(id RowID) {
	c := r.rows[id]
	if c.page != r.page {
		c.page, c.here = r.page, 0
	}
	c.here++
	if c.here > c.most {
		c.most = c.here
		r.newRows++
		r.distinct++
	}
	r.rows[id] = c
	r.pageRows++
}

// EndPage ends the current page and says what to do; the reason is in words for ReadAgain and Split. After any verdict but
// NextPage the reading is over.
func (r *Reading) EndPage(m PageMeta) (Verdict, string) {
	page, rows, fresh, before := int(r.page), r.pageRows, r.newRows, r.meta
	r.page++
	r.pageRows, r.newRows = 0, 0
	if !m.Known || m.Total < 0 {
		m = PageMeta{} // a negative total is none
	}
	r.meta = m
	if page == 1 {
		r.firstRows = rows
	} else if m != before {
		return r.moved(fmt.Sprintf("the total changed from %v to %v between pages %d and %d", before, m, page-1, page))
	}

	if !m.Known {
		// Only page 1 comes here: a first page without a total is the last.
		switch {
		case rows == 0:
			return Whole, ""
		case rows == r.perPage, rows%10 == 0, rows%25 == 0:
			return Split, fmt.Sprintf("no total, and %d rows look like an answer cut short", rows)
		default:
			return Whole, ""
		}
	}

	full := m.Total / max(r.firstRows, 1) // pages, if each is as long as the first
	switch {
	case r.distinct == m.Total:
		return Whole, ""
	case r.distinct > m.Total && page == 1:
		return Whole, "" // one answer with more rows than its own total: the total counts something else
	case r.distinct > m.Total:
		return r.moved(fmt.Sprintf("%d rows on %d pages, more than the total of %d", r.distinct, page, m.Total))
	case fresh == 0:
		return Split, fmt.Sprintf("page %d brought nothing new, with %d of %d rows seen", page, r.distinct, m.Total)
	case r.crosses:
		return Split, fmt.Sprintf("%d of %d rows on page 1, and rows may still appear before page 2", r.distinct, m.Total)
	case m.Total > r.maxRows && !r.single:
		return Split, fmt.Sprintf("%d rows are more than the %d that this window may hold", m.Total, r.maxRows)
	case full > maxPages:
		return Split, fmt.Sprintf("%d rows in pages of %d are more than %d pages", m.Total, r.firstRows, maxPages)
	case page >= min(full+2, maxPages):
		return Split, fmt.Sprintf("%d of %d rows after %d pages, the first of %d rows", r.distinct, m.Total, page, r.firstRows)
	default:
		return NextPage, ""
	}
}

// Distinct is how many rows were seen, each page's twins included.
func (r *Reading) Distinct() int { return r.distinct }

// Total is the total that the server gave last, 0 where it gave none: what Walk.Narrow wants to know.
func (r *Reading) Total() int { return r.meta.Total }

// moved is the verdict on a window whose rows came or went while it was read.
func (r *Reading) moved(reason string) (Verdict, string) {
	if r.attempt >= maxRereads {
		return Split, fmt.Sprintf("%s, also on reading %d", reason, r.attempt+1)
	}
	return ReadAgain, reason
}

// String is the total in words.
func (m PageMeta) String() string {
	if !m.Known {
		return "unknown"
	}
	return fmt.Sprint(m.Total)
}
