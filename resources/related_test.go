package resources

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

var servicesForTests = map[string][]ServicePort{
	"n/web":    {{"http", 80, "http"}, {"admin", 81, "9090"}},
	"n/single": {{"", 8000, "app"}},
	"n/none":   nil,
}

func lookupForTests(service string) []ServicePort { return servicesForTests[service] }

func TestServicePorts(t *testing.T) {
	tests := []struct {
		name, doc string
		service   string
		want      []ServicePort
	}{
		{
			"all forms", `{"metadata":{"name":"s","namespace":"n"},"spec":{"ports":[{"name":"a","port":80,"targetPort":"http"},{"port":81,"targetPort":8081},{"name":"c","port":82},{"name":"d"},7,{"port":99999}]}}`,
			"n/s",
			[]ServicePort{{"a", 80, "http"}, {"", 81, "8081"}, {"c", 82, ""}},
		},
		{"no ports", `{"metadata":{"name":"s","namespace":"n"},"spec":{}}`, "n/s", nil},
		{"no spec", `{"metadata":{"name":"s","namespace":"n"}}`, "n/s", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			service, ports, err := ServicePorts([]byte(tt.doc))
			if err != nil || service != tt.service || !reflect.DeepEqual(ports, tt.want) {
				t.Errorf("got %s %v, error %v, want %s %v", service, ports, err, tt.service, tt.want)
			}
		})
	}
}

func TestResolveBackends(t *testing.T) {
	ingress := func(backend string) string {
		return `{"metadata":{"name":"i","namespace":"n"},"spec":{"rules":[{"host":"h","http":{"paths":[{"backend":` + backend + `,"path":"/a"}]}}]}}`
	}
	route := func(spec string) string { return `{"metadata":{"name":"r","namespace":"n"},"spec":` + spec + `}` }
	tests := []struct {
		name, doc, want string
		services        string
	}{
		{"by name", ingress(`{"service":{"name":"web","port":{"name":"admin"}}}`), ingress(`{"service":{"name":"web","port":{"number":81}}}`), "n/web"},
		{"by the first name", ingress(`{"service":{"name":"web","port":{"name":"http"}}}`), ingress(`{"service":{"name":"web","port":{"number":80}}}`), "n/web"},
		{"by number", ingress(`{"service":{"name":"web","port":{"number":80}}}`), ingress(`{"service":{"name":"web","port":{"number":80}}}`), "n/web"},
		{"by an unknown number", ingress(`{"service":{"name":"web","port":{"number":7}}}`), ingress(`{"service":{"name":"web","port":{"number":7}}}`), "n/web"},
		{"by an unknown name", ingress(`{"service":{"name":"web","port":{"name":"nope"}}}`), ingress(`{"service":{"name":"web","port":{"name":"nope"}}}`), "n/web"},
		{"unknown Service", ingress(`{"service":{"name":"later","port":{"name":"http"}}}`), ingress(`{"service":{"name":"later","port":{"name":"http"}}}`), "n/later"},
		{"old form, name", ingress(`{"serviceName":"web","servicePort":"admin"}`), ingress(`{"service":{"name":"web","port":{"number":81}}}`), "n/web"},
		{"old form, number", ingress(`{"serviceName":"web","servicePort":80}`), ingress(`{"service":{"name":"web","port":{"number":80}}}`), "n/web"},
		{"old form, digits", ingress(`{"serviceName":"web","servicePort":"80"}`), ingress(`{"service":{"name":"web","port":{"number":80}}}`), "n/web"},
		{"old form, no port", ingress(`{"serviceName":"web"}`), ingress(`{"service":{"name":"web","port":{}}}`), "n/web"},
		{"no Service", ingress(`{"resource":{"kind":"Bucket","name":"b"}}`), ingress(`{"resource":{"kind":"Bucket","name":"b"}}`), ""},
		{"odd backends", ingress(`[7]`), ingress(`[7]`), ""},
		{
			"default backend", route(`{"defaultBackend":{"service":{"name":"web","port":{"name":"http"}}}}`),
			route(`{"defaultBackend":{"service":{"name":"web","port":{"number":80}}}}`), "n/web",
		},
		{
			"old default backend", route(`{"backend":{"serviceName":"single","servicePort":8000},"rules":[{"host":"x"},7,{"http":{"paths":[{"backend":{"serviceName":"web","servicePort":"http"}}]}}]}`),
			route(`{"defaultBackend":{"service":{"name":"single","port":{"number":8000}}},"rules":[{"host":"x"},7,{"http":{"paths":[{"backend":{"service":{"name":"web","port":{"number":80}}}}]}}]}`), "n/single n/web",
		},
		{"no spec", `{"metadata":{"name":"i"}}`, `{"metadata":{"name":"i"}}`, ""},
		{"< and > stay", ingress(`{"service":{"name":"web","port":{"number":80}},"x":"<&>"}`), ingress(`{"service":{"name":"web","port":{"number":80}},"x":"<&>"}`), "n/web"},

		{"Route by port name", route(`{"host":"h","port":{"targetPort":"admin"},"to":{"kind":"Service","name":"web"}}`), route(routeSpec("h", "/", "web", "81")), "n/web"},
		{"Route by name of the Pods' port", route(`{"host":"h","port":{"targetPort":"app"},"to":{"kind":"Service","name":"single"}}`), route(routeSpec("h", "/", "single", "8000")), "n/single"},
		{"Route by number of the Pods' port", route(`{"host":"h","port":{"targetPort":9090},"to":{"name":"web"}}`), route(routeSpec("h", "/", "web", "81")), "n/web"},
		{"Route by digits", route(`{"host":"h","port":{"targetPort":"9090"},"to":{"name":"web"}}`), route(routeSpec("h", "/", "web", "81")), "n/web"},
		{"Route by the Service's own number", route(`{"host":"h","port":{"targetPort":80},"to":{"name":"web"}}`), route(routeSpec("h", "/", "web", "80")), "n/web"},
		{"Route by number behind a name", route(`{"host":"h","port":{"targetPort":8080},"to":{"name":"single"}}`), route(routeSpec("h", "/", "single", "8000")), "n/single"},
		{"Route by a number nobody knows", route(`{"host":"h","port":{"targetPort":7},"to":{"name":"web"}}`), route(routeSpec("h", "/", "web", "7")), "n/web"},
		{
			"Route by a name nobody knows", route(`{"host":"h","port":{"targetPort":"nope"},"to":{"name":"web"}}`),
			route(`{"rules":[{"host":"h","http":{"paths":[{"backend":{"service":{"name":"web","port":{"name":"nope"}}},"path":"/"}]}}]}`), "n/web",
		},
		{"Route without port", route(`{"host":"h","path":"/p","to":{"kind":"Service","name":"web"}}`), route(routeSpec("h", "/p", "web", "80")), "n/web"},
		{"Route without port to an unknown Service", route(`{"host":"h","to":{"name":"later"}}`), route(`{"rules":[{"host":"h"}]}`), "n/later"},
		{"Route to something else", route(`{"host":"h","to":{"kind":"Other","name":"web"}}`), route(`{"rules":[{"host":"h"}]}`), ""},
		{"Route without host", route(`{"to":{"name":"single"}}`), strings.Replace(route(routeSpec("", "/", "single", "8000")), `"host":"",`, "", 1), "n/single"},
		{
			"Route with alternate backends", route(`{"alternateBackends":[{"kind":"Service","name":"single"}],"host":"h","to":{"name":"web"}}`),
			route(`{"rules":[{"host":"h","http":{"paths":[{"backend":{"service":{"name":"web","port":{"number":80}}},"path":"/"},{"backend":{"service":{"name":"single","port":{"number":8000}}},"path":"/"}]}}]}`),
			"n/single n/web",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, services, err := ResolveBackends([]byte(tt.doc), lookupForTests)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if s := strings.Join(services, " "); s != tt.services {
				t.Errorf("got services %q, want %q", s, tt.services)
			}
			again, _, err := ResolveBackends(got, lookupForTests)
			if err != nil || string(again) != string(got) {
				t.Errorf("a second time gives %s, error %v", again, err)
			}
		})
	}
}

func routeSpec(host, path, service, port string) string {
	return `{"rules":[{"host":"` + host + `","http":{"paths":[{"backend":{"service":{"name":"` + service + `","port":{"number":` + port + `}}},"path":"` + path + `"}]}}]}`
}

func TestWithoutTemplate(t *testing.T) {
	for doc, want := range map[string]string{
		`{"metadata":{"name":"r"},"spec":{"replicas":1,"template":{"spec":{}}}}`: `{"metadata":{"name":"r"},"spec":{"replicas":1}}`,
		`{"metadata":{"name":"r"},"spec":{"replicas":1}}`:                        `{"metadata":{"name":"r"},"spec":{"replicas":1}}`,
		`{"metadata":{"name":"r"}}`:                                              `{"metadata":{"name":"r"}}`,
	} {
		got, err := WithoutTemplate([]byte(doc))
		if err != nil || string(got) != want {
			t.Errorf("%s: got %s, error %v, want %s", doc, got, err, want)
		}
	}
}

func TestRelatedErrors(t *testing.T) {
	for _, doc := range []string{``, `{`, `[]`, `"x"`, `7`} {
		if _, _, err := ServicePorts([]byte(doc)); err == nil {
			t.Errorf("ServicePorts of %q gives no error", doc)
		}
		if _, _, err := ResolveBackends([]byte(doc), lookupForTests); err == nil {
			t.Errorf("ResolveBackends of %q gives no error", doc)
		}
		if _, err := WithoutTemplate([]byte(doc)); err == nil {
			t.Errorf("WithoutTemplate of %q gives no error", doc)
		}
	}
}

// Whatever an Ingress or Route holds, resolving it neither panics nor depends on the form of the document.
func FuzzResolveBackends(f *testing.F) {
	for _, name := range []string{"ingresses", "ingresses.extensions", "routes"} {
		f.Add(document(f, name))
	}
	f.Add([]byte(`{"spec":{"to":7,"host":[],"port":{"targetPort":{}},"alternateBackends":[{},null,7]}}`))
	f.Add([]byte(`{"spec":{"rules":[{"http":{"paths":[{"backend":{"serviceName":"web","servicePort":[]}}]}}],"backend":null,"defaultBackend":7}}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		out, _, err := ResolveBackends(doc, lookupForTests)
		if err != nil {
			return
		}
		again, _, err := ResolveBackends(out, lookupForTests)
		if err != nil || string(again) != string(out) {
			t.Errorf("%s: got %s, then %s, error %v", doc, out, again, err)
		}
	})
}

// A Route is served under the hosts that routers admitted, by the backends that have weight
// (route.openshift.io/v1, RouteStatus and RouteTargetReference).
func TestRouteAsIngress(t *testing.T) {
	const path = `"http":{"paths":[{"backend":{"service":{"name":"web","port":{"number":80}}},"path":"/"}]}`
	router := func(host, admitted, policy string) string {
		return fmt.Sprintf(`{"host":%q,"routerName":"r","wildcardPolicy":%q,"conditions":[{"type":"Other","status":"False"},`+
			`{"type":"Admitted","status":%q,"lastTransitionTime":"2026-01-01T00:00:00Z"}]}`, host, policy, admitted)
	}
	for _, tt := range []struct{ name, spec, routers, rules string }{
		{"no router yet", `"host":"a.example"`, ``, `{"host":"a.example",` + path + `}`},
		{"a subdomain, no router yet", `"subdomain":"web"`, ``, `{` + path + `}`},
		{"a subdomain", `"subdomain":"web"`, router("web.apps.example", "True", "None"), `{"host":"web.apps.example",` + path + `}`},
		{
			"two routers", `"subdomain":"web"`, router("web.b.example", "True", "None") + `,` + router("web.a.example", "True", "None"),
			`{"host":"web.a.example",` + path + `},{"host":"web.b.example",` + path + `}`,
		},
		{"two routers of one host", `"host":"a.example"`, router("a.example", "True", "None") + `,` + router("a.example", "True", "None"), `{"host":"a.example",` + path + `}`},
		{"one of two rejects", `"host":"a.example"`, router("a.example", "False", "None") + `,` + router("b.example", "True", "None"), `{"host":"b.example",` + path + `}`},
		{"all reject", `"host":"a.example"`, router("a.example", "False", "None"), ``},
		{"not decided", `"host":"a.example"`, router("a.example", "Unknown", "None"), `{"host":"a.example",` + path + `}`},
		{"wildcard", `"host":"www.a.example","wildcardPolicy":"Subdomain"`, ``, `{"host":"*.a.example",` + path + `}`},
		{"wildcard not granted", `"host":"www.a.example","wildcardPolicy":"Subdomain"`, router("www.a.example", "True", "None"), `{"host":"www.a.example",` + path + `}`},
		{"wildcard granted", `"host":"www.a.example","wildcardPolicy":"Subdomain"`, router("www.a.example", "True", "Subdomain"), `{"host":"*.a.example",` + path + `}`},
		{"weight 0", `"host":"a.example","alternateBackends":[{"kind":"Service","name":"off","weight":0}]`, ``, `{"host":"a.example",` + path + `}`},
		{
			"weight 0 of the first", `"host":"a.example","to":{"kind":"Service","name":"off","weight":0},"alternateBackends":[{"kind":"Service","name":"web","weight":1}]`,
			``, `{"host":"a.example",` + path + `}`,
		},
		{"nothing has weight", `"to":{"name":"off","weight":0.0}`, router("a.example", "True", ""), `{"host":"a.example"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := tt.spec
			if !strings.Contains(spec, `"to"`) {
				spec += `,"to":{"kind":"Service","name":"web","weight":100}`
			}
			object := fmt.Sprintf(`{"metadata":{"name":"rt","namespace":"shop","uid":"1b2c3d4e-5f60-4172-8394-a5b6c7d8e9f2"},"spec":{%s},"status":{"ingress":[%s]}}`,
				spec, tt.routers)
			projected, _, err := NewProjector(selected(t, Request{Name: "routes"}), Options{}).Project([]byte(object), nil)
			if err != nil {
				t.Fatal(err)
			}
			doc, err := projected.Entry.JSON()
			if err != nil {
				t.Fatal(err)
			}
			got, _, err := ResolveBackends(doc, func(string) []ServicePort { return []ServicePort{{Number: 80}} })
			if err != nil {
				t.Fatal(err)
			}
			want := `{"metadata":{"name":"rt","namespace":"shop","uid":"1b2c3d4e-5f60-4172-8394-a5b6c7d8e9f2"},"spec":{"rules":[` + tt.rules + `]}}`
			if string(got) != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}
