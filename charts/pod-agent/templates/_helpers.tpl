{{- define "pod-agent.fullname" -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- $name := default (ternary .Release.Name (printf "%s-%s" .Release.Name $chart) (contains $chart .Release.Name)) .Values.fullnameOverride -}}
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
{{ .Release.Namespace }}:{{ include "pod-agent.fullname" . }}
{{- end -}}

{{- define "pod-agent.labels" -}}
{{ include "pod-agent.selector" . }}
app.kubernetes.io/version: {{ include "pod-agent.labelValue" .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ include "pod-agent.labelValue" (printf "%s-%s" .Chart.Name .Chart.Version) }}
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
