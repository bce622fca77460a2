package informers

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// client makes the requests to the apiserver. It never retries: the reflector and the discovery loop decide when.
type client struct {
	rest *rest.RESTClient
	http *http.Client
}

func newClient(cfg *rest.Config, reload func() (*rest.Config, error), m *metrics, logger *slog.Logger) (*client, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.NegotiatedSerializer = statusSerializer()
	cfg.AcceptContentTypes = runtime.ContentTypeJSON
	cfg.ContentType = runtime.ContentTypeJSON
	// Lists are read once and at once; unpacking them costs more than they save (docs/informers.md).
	cfg.DisableCompression = true
	cfg.Timeout = 0
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return &countingTransport{next: next, metrics: m} })
	httpClient, err := HTTPClient(cfg, reload, logger)
	if err != nil {
		return nil, err
	}
	restClient, err := rest.UnversionedRESTClientForConfigAndClient(cfg, httpClient)
	if err != nil {
		return nil, fmt.Errorf("set up the connection to the apiserver: %w", err)
	}
	return &client{rest: restClient, http: httpClient}, nil
}

// statusSerializer knows metav1.Status, the only object that is decoded outside the stream.
func statusSerializer() runtime.NegotiatedSerializer {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	return serializer.NewCodecFactory(scheme).WithoutConversion()
}

func (c *client) close() { c.http.CloseIdleConnections() }

// resourcePath is the path of a collection.
func resourcePath(gvr schema.GroupVersionResource, namespace string) string {
	path := groupVersionPath(gvr.GroupVersion())
	if namespace != "" {
		path += "/namespaces/" + url.PathEscape(namespace)
	}
	return path + "/" + url.PathEscape(gvr.Resource)
}

func groupVersionPath(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "/api/" + url.PathEscape(gv.Version)
	}
	return "/apis/" + url.PathEscape(gv.Group) + "/" + url.PathEscape(gv.Version)
}

// stream starts a request and returns the answer's body and content type. Errors of the apiserver are *apierrors.StatusError.
func (c *client) stream(ctx context.Context, verb, resource, path string, params url.Values, accept string) (
	body io.ReadCloser, contentType string, err error,
) {
	req := c.rest.Get().AbsPath(path).MaxRetries(0).SetHeader("Accept", accept)
	for name, values := range params {
		for _, v := range values {
			req.Param(name, v)
		}
	}
	ctx = withLabels(ctx, verb, resource, &contentType)
	body, err = req.Stream(ctx)
	return body, contentType, err
}

// get fetches a small document. The answer 304 to an etag gives notModified.
func (c *client) get(ctx context.Context, resource, path, query, accept, etag string) (document, error) {
	ctx, cancel := context.WithTimeout(withLabels(ctx, "get", resource, nil), requestTimeout)
	defer cancel()
	target := c.rest.Get().AbsPath(path).URL()
	target.RawQuery = query
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return document{}, err
	}
	req.Header.Set("Accept", accept)
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return document{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusNotModified {
		return document{notModified: true}, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return document{}, fmt.Errorf("read %s: %w", path, err)
	}
	if len(body) > maxDocument {
		return document{}, &dataError{fmt.Sprintf("%s is larger than %d bytes", path, maxDocument)}
	}
	if resp.StatusCode != http.StatusOK {
		return document{}, statusError(resp, body)
	}
	return document{body: body, etag: resp.Header.Get("ETag"), contentType: resp.Header.Get("Content-Type")}, nil
}

type document struct {
	body        []byte
	etag        string
	contentType string
	notModified bool
}

const (
	requestTimeout = 15 * time.Second
	maxDocument    = 64 << 20
)

func statusError(resp *http.Response, body []byte) error {
	var status metav1.Status
	if err := jsonUnmarshal(body, &status); err == nil && status.Kind == "Status" && status.Status == metav1.StatusFailure {
		status.Code = int32(resp.StatusCode)
		return &apierrors.StatusError{ErrStatus: status}
	}
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil {
		seconds = 0
	}
	return apierrors.NewGenericServerResponse(resp.StatusCode, "get", schema.GroupResource{}, "", shorten(string(body)), seconds, true)
}

type labelsKey struct{}

type requestLabels struct {
	verb, resource string
	contentType    *string // where that of the answer goes, which rest.Request keeps to itself; may be nil
}

// withLabels says under which labels a request is counted.
func withLabels(ctx context.Context, verb, resource string, contentType *string) context.Context {
	return context.WithValue(ctx, labelsKey{}, requestLabels{verb, resource, contentType})
}

// countingTransport counts requests, answers and bytes.
type countingTransport struct {
	next    http.RoundTripper
	metrics *metrics
}

func (t *countingTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	labels, _ := req.Context().Value(labelsKey{}).(requestLabels)
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		t.metrics.requests.WithLabelValues(labels.verb, labels.resource, "error").Inc()
		return nil, err
	}
	t.metrics.requests.WithLabelValues(labels.verb, labels.resource, strconv.Itoa(resp.StatusCode)).Inc()
	if labels.contentType != nil {
		*labels.contentType = resp.Header.Get("Content-Type")
	}
	resp.Body = &countingBody{ReadCloser: resp.Body, bytes: t.metrics.bytes.WithLabelValues(labels.verb, labels.resource)}
	return resp, nil
}

// WrappedRoundTripper lets client-go find the transport below, as it does for its own wrappers.
func (t *countingTransport) WrappedRoundTripper() http.RoundTripper { return t.next }

type countingBody struct {
	io.ReadCloser
	bytes interface{ Add(float64) }
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.bytes.Add(float64(n))
	return n, err
}
