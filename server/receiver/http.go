package receiver

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/pseudo-agent/pseudo-agent/server/budget"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// maxAPIRequests is how many API requests are answered at once; each holds at most a page, as values and as JSON. An answer that was
// made is sent beside them, as slowly as its reader takes it.
const maxAPIRequests = 8

// What answers that are being sent may hold together, in bytes.
const (
	sendingShare   = 16        // of Limits.Memory
	sendingDefault = 256 << 20 // if the memory is not bounded
	smallAnswer    = 64 << 10  // up to which an answer is not counted
)

// How long an API request may take. Whoever looks is told soon that the storage hangs; changes may take longer.
const (
	readTimeout   = 15 * time.Second
	changeTimeout = 30 * time.Second
)

// API returns the handler of the API: the receiver's own routes and more, which other parts add.
func (r *Receiver) API(more ...Route) http.Handler {
	mux := http.NewServeMux()
	slots := make(chan struct{}, maxAPIRequests)
	for _, route := range append(r.Routes(), more...) {
		mux.Handle(route.Method+" "+APIPrefix+route.Path, r.route(route, slots))
	}
	mux.HandleFunc(APIPrefix+"/", func(w http.ResponseWriter, req *http.Request) {
		r.answer(w, "", nil, &APIError{
			Status: http.StatusNotFound, Message: req.Method + " " + clip(req.URL.Path) + " is no part of the API",
			Advice: "docs/receiver.md lists the routes",
		})
	})
	return http.NewCrossOriginProtection().Handler(mux)
}

type userKey struct{}

// User returns who sent a request of the API.
func User(req *http.Request) APIUser {
	u, _ := req.Context().Value(userKey{}).(APIUser)
	return u
}

func (r *Receiver) route(route Route, slots chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		user, err := r.opts.Access.authorise(req, route.Role)
		if err == nil {
			err = user.within(&route, req.PathValue("cluster"))
		}
		if err != nil {
			r.metrics.refusals.WithLabelValues(string(ruleAPI)).Inc()
			r.audit.refusedAPI(user, req, err)
			if err.Status == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", `Bearer realm="pseudo-server"`)
			}
			r.answer(w, route.Path, nil, err)
			return
		}
		stream, code, body := r.made(w, req, route, slots, user)
		if stream != nil {
			r.metrics.api.WithLabelValues(route.Path, strconv.Itoa(http.StatusOK)).Inc()
			r.whileAllowed(req, route.Role, func(req *http.Request) { stream(w, req) })
			return
		}
		defer r.endSending(len(body))
		r.send(w, route.Path, code, body)
	})
}

// made makes an answer, or a Stream, within the bounds of number and bytes. Without a Stream, endSending must be called.
func (r *Receiver) made(w http.ResponseWriter, req *http.Request, route Route, slots chan struct{}, user APIUser) (stream Stream, code int, body []byte) {
	tooMany := &APIError{Status: http.StatusServiceUnavailable, Message: "too many requests at once", Advice: "try again"}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	default:
		w.Header().Set("Retry-After", "1")
		code, body = r.encode(route.Path, nil, tooMany)
		return nil, code, body
	}
	v, err := r.called(req, route, user)
	if stream, ok := v.(Stream); ok && err == nil {
		return stream, 0, nil
	}
	code, body = r.encode(route.Path, v, err)
	if !r.beginSending(len(body)) {
		code, body = r.encode(route.Path, nil, tooMany)
	}
	return nil, code, body
}

// beginSending tells whether an answer of so many bytes may be sent beside those that are being sent. With true, endSending must be
// called with the same. One alone may always.
func (r *Receiver) beginSending(bytes int) bool {
	if bytes <= smallAnswer {
		return true
	}
	most := int64(sendingDefault)
	if m := r.opts.Limits.Memory; m > 0 {
		most = m / sendingShare
	}
	if sum := r.sending.Add(int64(bytes)); sum > most && sum > int64(bytes) {
		r.sending.Add(-int64(bytes))
		return false
	}
	return true
}

func (r *Receiver) endSending(bytes int) {
	if bytes > smallAnswer {
		r.sending.Add(-int64(bytes))
	}
}

// askAgain is how often the right to read a stream is looked at again.
const askAgain = 15 * time.Second

// whileAllowed calls stream with a request that ends when its sender loses the right to it, for example because the token
// was replaced.
func (r *Receiver) whileAllowed(req *http.Request, need Role, stream func(*http.Request)) {
	ctx, cancel := context.WithCancel(req.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(askAgain)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if user, err := r.opts.Access.authorise(req, need); err != nil {
				r.metrics.refusals.WithLabelValues(string(ruleAPI)).Inc()
				r.audit.refusedAPI(user, req, err)
				cancel()
				return
			}
		}
	}()
	stream(req.WithContext(ctx))
	cancel()
	<-ended
}

// Stream is what a Route's Answer returns to send an answer of its own, which may take as long as it likes: it counts
// neither among the requests answered at once nor has it their timeout. It must end with the request's context.
type Stream func(w http.ResponseWriter, req *http.Request)

// called calls a route's Answer within the bounds of time.
func (r *Receiver) called(req *http.Request, route Route, user APIUser) (any, error) {
	limit := changeTimeout
	if route.Role == RoleRead {
		limit = readTimeout
	}
	ctx, cancel := context.WithTimeout(context.WithValue(req.Context(), userKey{}, user), limit)
	defer cancel()
	req = req.WithContext(ctx)
	var v any
	_, err := Query(req, route.Params)
	if err == nil {
		v, err = route.Answer(req)
	}
	if route.Role == RoleAdminister {
		r.audit.administered(user, req, err)
	}
	return v, err
}

// answer sends v, which is small, or the error, as JSON.
func (r *Receiver) answer(w http.ResponseWriter, path string, v any, err error) {
	code, body := r.encode(path, v, err)
	r.send(w, path, code, body)
}

// encode makes v, or the error, JSON.
func (r *Receiver) encode(path string, v any, err error) (code int, body []byte) {
	code = http.StatusOK
	if err != nil {
		var apiErr *APIError
		var full *budget.FullError
		switch {
		case errors.As(err, &apiErr):
		case errors.Is(err, store.ErrConflict):
			apiErr = &APIError{Status: http.StatusConflict, Message: "the cluster was written meanwhile", Advice: "try again"}
		case errors.As(err, &full):
			apiErr = &APIError{Status: http.StatusServiceUnavailable, Message: full.What, Advice: full.Advice}
		case errors.Is(err, context.DeadlineExceeded):
			r.log.Debug("API request took too long", "path", path, "error", err)
			apiErr = &APIError{
				Status: http.StatusServiceUnavailable, Message: "no answer in time: the storage hangs, a report of the cluster is being stored, or too much is asked for",
				Advice: "try again in some seconds; /status says whether the storage works",
			}
		default:
			r.noteStorage(err)
			r.log.Debug("API request failed", "path", path, "error", err)
			apiErr = &APIError{Status: http.StatusServiceUnavailable, Message: "the storage cannot be read or written now", Advice: "see the log of pseudo-server"}
		}
		code, v = apiErr.Status, apiErr
	}
	if body, err = json.Marshal(v); err != nil {
		r.log.Error("API answer cannot be encoded", "path", path, "error", err)
		return http.StatusInternalServerError, []byte(`{"error":"the answer cannot be encoded"}`)
	}
	return code, body
}

func (r *Receiver) send(w http.ResponseWriter, path string, code int, body []byte) {
	r.metrics.api.WithLabelValues(path, strconv.Itoa(code)).Inc()
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if code == http.StatusServiceUnavailable && h.Get("Retry-After") == "" {
		h.Set("Retry-After", "5")
	}
	w.WriteHeader(code)
	// Whoever went away gets nothing; there is nobody left to tell.
	_, _ = w.Write(body)
	_, _ = w.Write([]byte{'\n'})
}
