// Package web is the page of pseudo-server: one document, its scripts, one style sheet, embedded into the program.
//
// It relies on the API (docs/api.md) for everything that it shows, with the reader's own token, and on operate for the
// style that all pages share. It promises to load nothing from elsewhere, and that no text from a cluster becomes
// markup: the script makes text nodes only, and the Content-Security-Policy forbids anything else.
package web

import (
	"embed"
	"io/fs"
	"net/http"
)

//go:embed files
var files embed.FS

// policy allows what the page consists of and what it asks of the API.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; " +
	"form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// Handlers returns the page's handlers by pattern of http.ServeMux.
func Handlers() map[string]http.Handler {
	sub, err := fs.Sub(files, "files")
	if err != nil {
		// The folder is part of the program.
		panic(err)
	}
	served := http.FileServerFS(sub)
	page := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		served.ServeHTTP(w, req)
	})
	handlers := map[string]http.Handler{"GET /{$}": page}
	names, err := fs.Glob(sub, "*.*")
	if err != nil {
		panic(err) // as above
	}
	for _, name := range names {
		handlers["GET /"+name] = page
	}
	delete(handlers, "GET /index.html")
	return handlers
}
