{{- define "pseudo-server.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "pseudo-server.selector" -}}
app.kubernetes.io/name: pseudo-server
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "pseudo-server.labels" -}}
{{ include "pseudo-server.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "pseudo-server.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "pseudo-server.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed if serviceAccount.create is false" .Values.serviceAccount.name -}}
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
{{- toYaml $config -}}
{{- end -}}
