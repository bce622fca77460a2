{{- /*
The name of all objects. Chart.Name is the alias if the chart is a dependency that has one; its name is then never left
out, so that two aliases in one release do not meet, and what is too long keeps a hash of the whole.
*/ -}}
{{- define "pod-agent.fullname" -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- $short := and (eq .Chart.Name "pod-agent") (contains $chart .Release.Name) -}}
{{- $name := default (ternary .Release.Name (printf "%s-%s" .Release.Name $chart) $short) .Values.fullnameOverride -}}
{{- if le (len $name) 63 -}}
{{- $name -}}
{{- else -}}
{{- printf "%s-%s" ($name | trunc 54 | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- end -}}
{{- end -}}

{{- define "pod-agent.selector" -}}
app.kubernetes.io/name: {{ include "pod-agent.labelValue" (default .Chart.Name .Values.nameOverride) }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /* Versions may hold a +, labels may not. */ -}}
{{- define "pod-agent.labelValue" -}}
{{- regexReplaceAll "[^a-zA-Z0-9]+$" (. | replace "+" "_" | trunc 63) "" -}}
{{- end -}}

{{- /* The name of what stands outside of the release's namespace: another release there can have the same name. */ -}}
{{- define "pod-agent.roleName" -}}
{{ include "pod-agent.namespace" . }}:{{ include "pod-agent.fullname" . }}
{{- end -}}

{{- /* The namespace of all objects but those that another value puts elsewhere. */ -}}
{{- define "pod-agent.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- /*
The metadata of an object of the chart at root. name and namespace are those of most objects unless they are given; cluster
stands for an object without a namespace; labels and annotations come before those of all objects.
*/ -}}
{{- define "pod-agent.metadata" -}}
{{- $root := .root -}}
{{- /* helm upgrade --reuse-values leaves out the defaults of what is new. */ -}}
{{- if not (hasKey $root.Values "existingConfigMap") -}}
{{- fail "these values are those of a former version of the chart: upgrade with --reset-then-reuse-values instead of --reuse-values" -}}
{{- end -}}
name: {{ default (include "pod-agent.fullname" $root) .name }}
{{- if not .cluster }}
namespace: {{ default (include "pod-agent.namespace" $root) .namespace }}
{{- end }}
labels: {{- mergeOverwrite (include "pod-agent.labels" $root | fromYaml) (default dict .labels) | toYaml | nindent 2 }}
{{- with mergeOverwrite (deepCopy (default dict $root.Values.commonAnnotations)) (default dict .annotations) }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /*
The metadata of what Prometheus or Grafana looks for, of its values with namespace, labels and annotations. In another
namespace there can be that of another release of the same name, so that the name carries the release's namespace.
*/ -}}
{{- define "pod-agent.monitoringMetadata" -}}
{{- $own := include "pod-agent.namespace" .root -}}
{{- $namespace := default $own .values.namespace -}}
{{- $name := printf "%s%s" (include "pod-agent.fullname" .root) (default "" .suffix) -}}
{{- if ne $namespace $own -}}{{- $name = printf "%s.%s" $own $name -}}{{- end -}}
{{- include "pod-agent.metadata" (dict "root" .root "name" $name "namespace" $namespace "labels" .values.labels "annotations" .values.annotations) -}}
{{- end -}}

{{- /*
Settings as environment variables, which come before the file of an existing ConfigMap: a list of texts with commas, a list
of anything else as JSON. An empty one would be no setting, and Kubernetes puts other variables in for $(…).
*/ -}}
{{- define "pod-agent.env" -}}
{{- range $key, $value := .settings -}}
{{- $name := printf "%s_%s" $.prefix (upper $key) -}}
{{- if kindIs "map" $value -}}
{{- include "pod-agent.env" (dict "prefix" $name "settings" $value) -}}
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

{{- define "pod-agent.labels" -}}
{{ include "pod-agent.selector" . }}
app.kubernetes.io/version: {{ include "pod-agent.labelValue" .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ include "pod-agent.labelValue" (printf "%s-%s" .Chart.Name .Chart.Version) }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "pod-agent.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "pod-agent.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed if serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "pod-agent.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- range $key := list "node_name" "node_root" -}}
{{- if hasKey $config $key -}}{{- fail (printf "config.%s is set by the chart; remove it" $key) -}}{{- end -}}
{{- end -}}
{{- if dig "http" "address" "" $config -}}{{- fail "config.http.address is set by metrics.exposed and metrics.port; remove it" -}}{{- end -}}
{{- $_ := set $config "node_root" "/host" -}}
{{- toYaml $config -}}
{{- end -}}

{{- /* A registry given for all charts comes before that of this one; a digest says more than a tag. */ -}}
{{- define "pod-agent.image" -}}
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
{{- define "pod-agent.imagePullSecrets" -}}
{{- $names := list -}}
{{- range concat (default list (default dict .Values.global).imagePullSecrets) (default list .Values.imagePullSecrets) -}}
{{- $names = append $names (kindIs "string" . | ternary . (get (kindIs "map" . | ternary . dict) "name")) -}}
{{- end -}}
{{- range $names | uniq }}
- name: {{ . }}
{{- end -}}
{{- end -}}
