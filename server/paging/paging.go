// Package paging divides lists of the API into pages.
//
// It relies on nothing but the order of the rows' keys. It promises that a page is bounded in rows and in bytes, and that what is
// in the list all the time, with the same key, comes exactly once.
package paging

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/pseudo-agent/pseudo-agent/server/receiver"
)

// Row is one line of a list with its place in the order.
type Row struct {
	Key   []string
	Value any
}

// Page is a part of a list.
type Page struct {
	Total int    // rows of the list
	Items []any  // JSON of each row's value
	Next  string // token of the next page; empty: this is the last one
}

// Sort puts rows into the order of their keys.
func Sort(rows []Row) {
	slices.SortFunc(rows, func(a, b Row) int { return slices.Compare(a.Key, b.Key) })
}

// Of returns the rows, which are sorted, that follow a token, which an earlier page gave: at most limit rows, and fewer where they
// have more than so many bytes as JSON. A list may change between two pages: what is there all the time comes exactly once.
func Of(rows []Row, token string, limit, bytes int) (Page, error) {
	p := Page{Total: len(rows), Items: []any{}}
	from := 0
	if token != "" {
		var after []string
		text, err := base64.RawURLEncoding.DecodeString(token)
		if err == nil {
			err = json.Unmarshal(text, &after)
		}
		if err != nil {
			return p, &receiver.APIError{
				Status: http.StatusBadRequest, Message: fmt.Sprintf("continue is %.100q, which no answer contained", strings.ToValidUTF8(token, "\uFFFD")),
				Advice: "docs/api.md describes the request",
			}
		}
		from, _ = slices.BinarySearchFunc(rows, after, func(r Row, key []string) int {
			if slices.Compare(r.Key, key) > 0 {
				return 1
			}
			return -1
		})
	}
	to := from
	for to < len(rows) {
		// Rows of one key, such as objects of two types with the same uid, are on one page: the token cannot tell them apart.
		alike := to > from && slices.Equal(rows[to].Key, rows[to-1].Key)
		if (to-from >= limit || bytes <= 0) && !alike {
			break
		}
		text, err := json.Marshal(rows[to].Value)
		if err != nil {
			return p, fmt.Errorf("make a page: %w", err)
		}
		p.Items = append(p.Items, json.RawMessage(text))
		bytes -= len(text)
		to++
	}
	if to < len(rows) {
		text, err := json.Marshal(rows[to-1].Key)
		if err != nil {
			return p, fmt.Errorf("make the continue token: %w", err)
		}
		p.Next = base64.RawURLEncoding.EncodeToString(text)
	}
	return p, nil
}
