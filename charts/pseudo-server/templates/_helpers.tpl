{{- /*
The name of all objects. Chart.Name is the alias if the chart is a dependency that has one; its name is then never left
out, so that two aliases in one release do not meet, and what is too long keeps a hash of the whole.
*/ -}}
{{- define "pseudo-server.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- $name := printf "%s-%s" .Release.Name $chart -}}
{{- if and (eq .Chart.Name "pseudo-server") (contains $chart .Release.Name) -}}
{{- $name = .Release.Name -}}
{{- end -}}
{{- if or (le (len $name) 63) (eq .Chart.Name "pseudo-server") -}}
{{- $name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" ($name | trunc 54 | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* A Deployment's selector cannot be changed: a release without an alias keeps the one it has. */ -}}
{{- define "pseudo-server.selector" -}}
app.kubernetes.io/name: {{ include "pseudo-server.labelValue" (default .Chart.Name .Values.nameOverride) }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /* Versions may hold a +, labels may not. */ -}}
{{- define "pseudo-server.labelValue" -}}
{{- regexReplaceAll "[^a-zA-Z0-9]+$" (. | replace "+" "_" | trunc 63) "" -}}
{{- end -}}

{{- /* The namespace of all objects but those that another value puts elsewhere. */ -}}
{{- define "pseudo-server.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- /*
The metadata of an object of the chart at root. name and namespace are those of most objects unless they are given; cluster
stands for an object without a namespace; labels and annotations come before those of all objects.
*/ -}}
{{- define "pseudo-server.metadata" -}}
{{- $root := .root -}}
{{- /* helm upgrade --reuse-values leaves out the defaults of what is new. */ -}}
{{- if not (hasKey $root.Values "existingConfigMap") -}}
{{- fail "these values are those of a former version of the chart: upgrade with --reset-then-reuse-values instead of --reuse-values" -}}
{{- end -}}
name: {{ default (include "pseudo-server.fullname" $root) .name }}
{{- if not .cluster }}
namespace: {{ default (include "pseudo-server.namespace" $root) .namespace }}
{{- end }}
labels: {{- mergeOverwrite (include "pseudo-server.labels" $root | fromYaml) (default dict .labels) | toYaml | nindent 2 }}
{{- with mergeOverwrite (deepCopy (default dict $root.Values.commonAnnotations)) (default dict .annotations) }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /*
The metadata of what Prometheus or Grafana looks for, of its values with namespace, labels and annotations. In another
namespace there can be that of another release of the same name, so that the name carries the release's namespace.
*/ -}}
{{- define "pseudo-server.monitoringMetadata" -}}
{{- $own := include "pseudo-server.namespace" .root -}}
{{- $namespace := default $own .values.namespace -}}
{{- $name := printf "%s%s" (include "pseudo-server.fullname" .root) (default "" .suffix) -}}
{{- if ne $namespace $own -}}{{- $name = printf "%s.%s" $own $name -}}{{- end -}}
{{- include "pseudo-server.metadata" (dict "root" .root "name" $name "namespace" $namespace "labels" .values.labels "annotations" .values.annotations) -}}
{{- end -}}

{{- /*
Settings as environment variables, which come before the file of an existing ConfigMap: a list of texts with commas, a list
of anything else as JSON. An empty one would be no setting, and Kubernetes puts other variables in for $(…).
*/ -}}
{{- define "pseudo-server.env" -}}
{{- range $key, $value := .settings -}}
{{- $name := printf "%s_%s" $.prefix (upper $key) -}}
{{- if kindIs "map" $value -}}
{{- include "pseudo-server.env" (dict "prefix" $name "settings" $value) -}}
{{- else if or $value (has (kindOf $value) (list "bool" "float64" "int64")) }}
- name: {{ $name }}
  {{- if kindIs "string" $value }}
  value: {{ $value | replace "$(" "$$(" | quote }}
  {{- else if and (kindIs "slice" $value) (kindIs "string" (first $value)) }}
  value: {{ join "," $value | replace "$(" "$$(" | quote }}
  {{- else }}
  value: {{ toJson $value | replace "$(" "$$(" | quote }}
  {{- end }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "pseudo-server.labels" -}}
{{ include "pseudo-server.selector" . }}
app.kubernetes.io/version: {{ include "pseudo-server.labelValue" .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ include "pseudo-server.labelValue" (printf "%s-%s" .Chart.Name .Chart.Version) }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* OpenShift's SCC restricted-v2 gives the ids, and refuses Pods that ask for others. */ -}}
{{- define "pseudo-server.podSecurityContext" -}}
{{- $context := deepCopy .Values.podSecurityContext -}}
{{- if .Values.openshift -}}{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" -}}{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{- /* Of the Service for scraping; a Service's name has at most 63 characters. */ -}}
{{- define "pseudo-server.metricsName" -}}
{{- $name := include "pseudo-server.fullname" . -}}
{{- if gt (len $name) 55 -}}{{- $name = printf "%s-%s" ($name | trunc 46 | trimSuffix "-") (sha256sum $name | trunc 8) -}}{{- end -}}
{{- $name -}}-metrics
{{- end -}}

{{- define "pseudo-server.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "pseudo-server.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed if serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* https if config gives the HTTP port certificates; empty otherwise. Kubelets show none of their own. */ -}}
{{- define "pseudo-server.scheme" -}}
{{- $tls := dig "http" "tls" dict .Values.config -}}
{{- if $tls.enabled -}}
{{- if $tls.require_client_cert -}}
{{- fail "config.http.tls.require_client_cert would fail the probes, which show no certificate; use tokens (config.access) instead" -}}
{{- end -}}
https
{{- end -}}
{{- end -}}

{{- /* The Secret with the API's tokens; empty: there is none. */ -}}
{{- define "pseudo-server.tokensSecret" -}}
{{- if .Values.tokens.existingSecret -}}
{{- .Values.tokens.existingSecret -}}
{{- else if .Values.tokens.create -}}
{{- printf "%s-tokens" (include "pseudo-server.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- /* The configuration file: config, and what follows from other values. */ -}}
{{- define "pseudo-server.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $store := dict "type" .Values.storage.type -}}
{{- if eq .Values.storage.type "postgres" -}}
{{- if not .Values.storage.postgres.secretName -}}{{- fail "storage.postgres.secretName is needed: a Secret with the connection string" -}}{{- end -}}
{{- $_ := set $store "dsn_file" (printf "/etc/pseudo-server-store/%s" .Values.storage.postgres.secretKey) -}}
{{- else -}}
{{- if gt (int .Values.replicas) 1 -}}{{- fail "more than one replica needs storage.type postgres" -}}{{- end -}}
{{- $_ := set $store "path" "/var/lib/pseudo-server/pseudo-server.db" -}}
{{- end -}}
{{- $_ := set $config "store" (mergeOverwrite $store (default dict $config.store)) -}}
{{- if .Values.tls.secretName -}}
{{- $tls := dict "enabled" true "cert_file" "/etc/pseudo-server-tls/tls.crt" "key_file" "/etc/pseudo-server-tls/tls.key" -}}
{{- if .Values.tls.requireClientCert -}}
{{- $_ := set $tls "client_ca_file" "/etc/pseudo-server-tls/ca.crt" -}}
{{- $_ := set $tls "require_client_cert" true -}}
{{- end -}}
{{- $_ := set $config "tls" (mergeOverwrite $tls (default dict $config.tls)) -}}
{{- end -}}
{{- with .Values.upstream -}}
{{- $upstream := dict -}}
{{- range $key := list "addresses" "advertise" "reports" -}}
{{- with index $.Values.upstream $key -}}{{- $_ := set $upstream $key . -}}{{- end -}}
{{- end -}}
{{- if .tls.enabled -}}
{{- $tls := dict "enabled" true -}}
{{- if .tls.secretName -}}{{- $_ := set $tls "ca_file" "/etc/pseudo-server-upstream/ca.crt" -}}{{- end -}}
{{- with .tls.serverName -}}{{- $_ := set $tls "server_name" . -}}{{- end -}}
{{- if .tls.clientCert -}}
{{- if not .tls.secretName -}}{{- fail "upstream.tls.clientCert needs upstream.tls.secretName: a Secret with tls.crt and tls.key" -}}{{- end -}}
{{- $_ := set $tls "cert_file" "/etc/pseudo-server-upstream/tls.crt" -}}
{{- $_ := set $tls "key_file" "/etc/pseudo-server-upstream/tls.key" -}}
{{- end -}}
{{- $_ := set $upstream "tls" $tls -}}
{{- else if or .tls.secretName .tls.clientCert .tls.serverName -}}
{{- fail "upstream.tls has no effect without upstream.tls.enabled" -}}
{{- end -}}
{{- $upstream = mergeOverwrite $upstream (default dict $config.upstream) -}}
{{- if and $upstream (not $upstream.addresses) -}}{{- fail "upstream.addresses is needed: the deepflow-servers as host:port" -}}{{- end -}}
{{- if $upstream -}}{{- $_ := set $config "upstream" $upstream -}}{{- end -}}
{{- end -}}
{{- if include "pseudo-server.tokensSecret" . -}}
{{- $access := deepCopy (default dict $config.access) -}}
{{- $tokens := default list $access.tokens -}}
{{- range list "read" "administer" -}}
{{- $tokens = append $tokens (dict "name" (printf "chart-%s" .) "role" . "token_file" (printf "/etc/pseudo-server-tokens/%s" .)) -}}
{{- end -}}
{{- $_ := set $access "tokens" $tokens -}}
{{- $_ := set $config "access" $access -}}
{{- end -}}
{{- /* The Service's short name; its longer ones are always allowed, but for a cluster domain of your own. */ -}}
{{- $http := deepCopy (default dict $config.http) -}}
{{- $name := printf "%s.%s" (include "pseudo-server.fullname" .) (include "pseudo-server.namespace" .) -}}
{{- $names := append (default list $http.allowed_hosts) $name -}}
{{- if ne .Values.clusterDomain "cluster.local" -}}{{- $names = append $names (printf "%s.svc.%s" $name .Values.clusterDomain) -}}{{- end -}}
{{- $_ := set $http "allowed_hosts" (uniq $names) -}}
{{- $_ := set $config "http" $http -}}
{{- toYaml $config -}}
{{- end -}}

{{- /* A registry given for all charts comes before that of this one; a digest says more than a tag. */ -}}
{{- define "pseudo-server.image" -}}
{{- $registry := default .Values.image.registry (default dict .Values.global).imageRegistry -}}
{{- with $registry -}}{{- printf "%s/" (trimSuffix "/" .) -}}{{- end -}}
{{- .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "@%s" .Values.image.digest -}}
{{- else -}}
{{- printf ":%s" (default .Chart.AppVersion .Values.image.tag | replace "+" "_") -}}
{{- end -}}
{{- end -}}

{{- /* The chart's own secrets and those for all charts, which some write as names; each once. */ -}}
{{- define "pseudo-server.imagePullSecrets" -}}
{{- $names := list -}}
{{- range concat (default list (default dict .Values.global).imagePullSecrets) (default list .Values.imagePullSecrets) -}}
{{- $names = append $names (kindIs "string" . | ternary . (get (kindIs "map" . | ternary . dict) "name")) -}}
{{- end -}}
{{- range $names | uniq }}
- name: {{ . }}
{{- end -}}
{{- end -}}
