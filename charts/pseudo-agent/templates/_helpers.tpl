{{- /*
The name of all objects. Chart.Name is the alias if the chart is a dependency that has one; its name is then never left
out, so that two aliases in one release do not meet, and what is too long keeps a hash of the whole.
*/ -}}
{{- define "pseudo-agent.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- $name := printf "%s-%s" .Release.Name $chart -}}
{{- if and (eq .Chart.Name "pseudo-agent") (contains $chart .Release.Name) -}}
{{- $name = .Release.Name -}}
{{- end -}}
{{- if or (le (len $name) 63) (eq .Chart.Name "pseudo-agent") -}}
{{- $name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" ($name | trunc 54 | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* A Deployment's selector cannot be changed: a release without an alias keeps the one it has. */ -}}
{{- define "pseudo-agent.selector" -}}
app.kubernetes.io/name: {{ include "pseudo-agent.labelValue" (default .Chart.Name .Values.nameOverride) }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /* Versions may hold a +, labels may not. */ -}}
{{- define "pseudo-agent.labelValue" -}}
{{- regexReplaceAll "[^a-zA-Z0-9]+$" (. | replace "+" "_" | trunc 63) "" -}}
{{- end -}}

{{- /* The name of what stands outside of the release's namespace, or may: another release there can have the same name. */ -}}
{{- define "pseudo-agent.roleName" -}}
{{ include "pseudo-agent.namespace" . }}:{{ include "pseudo-agent.fullname" . }}
{{- end -}}

{{- /* The namespace of all objects but those that another value puts elsewhere. */ -}}
{{- define "pseudo-agent.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- /*
The metadata of an object of the chart at root. name and namespace are those of most objects unless they are given; cluster
stands for an object without a namespace; labels and annotations come before those of all objects.
*/ -}}
{{- define "pseudo-agent.metadata" -}}
{{- $root := .root -}}
{{- /* helm upgrade --reuse-values leaves out the defaults of what is new. */ -}}
{{- if not (hasKey $root.Values "existingConfigMap") -}}
{{- fail "these values are those of a former version of the chart: upgrade with --reset-then-reuse-values instead of --reuse-values" -}}
{{- end -}}
name: {{ default (include "pseudo-agent.fullname" $root) .name }}
{{- if not .cluster }}
namespace: {{ default (include "pseudo-agent.namespace" $root) .namespace }}
{{- end }}
labels: {{- mergeOverwrite (include "pseudo-agent.labels" $root | fromYaml) (default dict .labels) | toYaml | nindent 2 }}
{{- with mergeOverwrite (deepCopy (default dict $root.Values.commonAnnotations)) (default dict .annotations) }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /*
The metadata of what Prometheus or Grafana looks for, of its values with namespace, labels and annotations. In another
namespace there can be that of another release of the same name, so that the name carries the release's namespace.
*/ -}}
{{- define "pseudo-agent.monitoringMetadata" -}}
{{- $own := include "pseudo-agent.namespace" .root -}}
{{- $namespace := default $own .values.namespace -}}
{{- $name := printf "%s%s" (include "pseudo-agent.fullname" .root) (default "" .suffix) -}}
{{- if ne $namespace $own -}}{{- $name = printf "%s.%s" $own $name -}}{{- end -}}
{{- include "pseudo-agent.metadata" (dict "root" .root "name" $name "namespace" $namespace "labels" .values.labels "annotations" .values.annotations) -}}
{{- end -}}

{{- /*
Settings as environment variables, which come before the file of an existing ConfigMap: a list of texts with commas, a list
of anything else as JSON. An empty one would be no setting, and Kubernetes puts other variables in for $(…).
*/ -}}
{{- define "pseudo-agent.env" -}}
{{- range $key, $value := .settings -}}
{{- $name := printf "%s_%s" $.prefix (upper $key) -}}
{{- if kindIs "map" $value -}}
{{- include "pseudo-agent.env" (dict "prefix" $name "settings" $value) -}}
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

{{- define "pseudo-agent.labels" -}}
{{ include "pseudo-agent.selector" . }}
app.kubernetes.io/version: {{ include "pseudo-agent.labelValue" .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ include "pseudo-agent.labelValue" (printf "%s-%s" .Chart.Name .Chart.Version) }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* OpenShift's SCC restricted-v2 gives the ids, and refuses Pods that ask for others. */ -}}
{{- define "pseudo-agent.podSecurityContext" -}}
{{- $context := deepCopy .Values.podSecurityContext -}}
{{- if .Values.openshift -}}{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" -}}{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{- define "pseudo-agent.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "pseudo-agent.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed if serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* The configuration file: config, and what follows from other values. */ -}}
{{- define "pseudo-agent.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if gt (int .Values.replicas) 1 -}}
{{- $ha := dict "enabled" true "lease_name" (include "pseudo-agent.fullname" .) "lease_namespace" (include "pseudo-agent.namespace" .) -}}
{{- $_ := set $config "high_availability" (mergeOverwrite $ha (default dict $config.high_availability)) -}}
{{- end -}}
{{- if .Values.deepflowFiles -}}
{{- $files := list -}}
{{- range $name := keys .Values.deepflowFiles | sortAlpha -}}
{{- $files = append $files (printf "/etc/pseudo-agent/%s" $name) -}}
{{- end -}}
{{- $_ := set $config "deepflow_files" $files -}}
{{- end -}}
{{- if .Values.tls.secretName -}}
{{- $tls := dict "enabled" true "ca_file" "/etc/pseudo-agent-tls/ca.crt" -}}
{{- if .Values.tls.clientCertificate -}}
{{- $_ := set $tls "cert_file" "/etc/pseudo-agent-tls/tls.crt" -}}
{{- $_ := set $tls "key_file" "/etc/pseudo-agent-tls/tls.key" -}}
{{- end -}}
{{- $server := default dict $config.server -}}
{{- $_ := set $server "tls" (mergeOverwrite $tls (default dict $server.tls)) -}}
{{- $_ := set $config "server" $server -}}
{{- end -}}
{{- if not (or (dig "server" "addresses" list $config) .Values.deepflowFiles .Values.existingConfigMap (eq (dig "watch_policy" "" $config) "watch-disabled")) -}}
{{- fail "config.server.addresses is needed, for example --set 'config.server.addresses={deepflow-server.deepflow:20035}'" -}}
{{- end -}}
{{- if not (dig "server" "addresses" list $config) -}}
{{- /* An empty list is a value, too: it would hide the addresses of a DeepFlow file. */ -}}
{{- $server := omit (default dict $config.server) "addresses" -}}
{{- if $server -}}
{{- $_ := set $config "server" $server -}}
{{- else -}}
{{- $_ := unset $config "server" -}}
{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{- /*
What is selected, as JSON with api_resources and kubernetes_namespace: that of config, else that of the last DeepFlow file
that says something about it, in its new or its legacy form.
*/ -}}
{{- define "pseudo-agent.selection" -}}
{{- $out := dict "api_resources" list "kubernetes_namespace" "" -}}
{{- $files := .Values.deepflowFiles -}}
{{- range $name := keys $files | sortAlpha -}}
{{- $doc := get $files $name | fromYaml -}}
{{- if hasKey $doc "Error" -}}{{- fail (printf "deepflowFiles.%s: %s" $name $doc.Error) -}}{{- end -}}
{{- $legacy := default dict (get $doc "static_config") -}}
{{- $new := dig "inputs" "resources" "kubernetes" dict $doc -}}
{{- range $ours, $theirs := dict "api_resources" "kubernetes-resources" "kubernetes_namespace" "kubernetes-namespace" -}}
{{- with get $legacy $theirs -}}{{- $_ := set $out $ours . -}}{{- end -}}
{{- with get $new $ours -}}{{- $_ := set $out $ours . -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- range $key, $value := dig "inputs" "resources" "kubernetes" dict .Values.config -}}
{{- if hasKey $out $key -}}{{- $_ := set $out $key $value -}}{{- end -}}
{{- end -}}
{{- toJson $out -}}
{{- end -}}

{{- /*
The needs of the selection as a JSON list of {resource, groups, kind}; kind is node, namespace or namespaced. The
rules are those of resources.Select and check/rbac; files/catalogue.yaml is generated from the former.
*/ -}}
{{- define "pseudo-agent.needs" -}}
{{- $catalogue := (.Files.Get "files/catalogue.yaml" | fromYaml).resources -}}
{{- $requests := default list (include "pseudo-agent.selection" . | fromJson).api_resources -}}
{{- $byName := dict -}}
{{- range $catalogue -}}{{- $_ := set $byName .name . -}}{{- end -}}
{{- $replaced := dict -}}
{{- $needs := list -}}
{{- range $r := $requests -}}
{{- $row := get $byName $r.name -}}
{{- $group := default "" $r.group -}}
{{- if eq $group "core" -}}{{- $group = "" -}}{{- end -}}
{{- if $r.as -}}
{{- if $row -}}{{- range $row.served -}}{{- if and (eq .group $group) (eq .resource $r.name) -}}{{- $_ := set $replaced $r.name true -}}{{- end -}}{{- end -}}{{- end -}}
{{- if not $r.disabled -}}{{- $needs = append $needs (dict "resource" $r.name "groups" (list $group) "scope" "namespaced") -}}{{- end -}}
{{- else -}}
{{- if not $row -}}{{- fail (printf "config.inputs.resources.kubernetes.api_resources: %q is not a known resource; add `as` if it is a workload CRD" $r.name) -}}{{- end -}}
{{- $_ := set $replaced $r.name true -}}
{{- if not $r.disabled -}}
{{- $served := list -}}
{{- range $row.served -}}
{{- if and (or (not (hasKey $r "group")) (eq (default "" $r.group) "") (eq .group $group)) (or (not $r.version) (eq .version $r.version)) -}}{{- $served = append $served . -}}{{- end -}}
{{- end -}}
{{- $needs = concat $needs (include "pseudo-agent.served" (dict "served" $served "scope" $row.scope) | fromJsonArray) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $catalogue -}}
{{- if and .default (not (hasKey $replaced .name)) -}}
{{- $needs = concat $needs (include "pseudo-agent.served" (dict "served" .served "scope" .scope) | fromJsonArray) -}}
{{- end -}}
{{- end -}}
{{- toJson $needs -}}
{{- end -}}

{{- /* One need per plural name; the apps and core groups, which every apiserver serves, end the search. */ -}}
{{- define "pseudo-agent.served" -}}
{{- $scope := .scope -}}
{{- $groups := dict -}}
{{- $order := list -}}
{{- $end := false -}}
{{- range .served -}}
{{- if not $end -}}
{{- if not (hasKey $groups .resource) -}}{{- $order = append $order .resource -}}{{- $_ := set $groups .resource list -}}{{- end -}}
{{- if not (has .group (get $groups .resource)) -}}{{- $_ := set $groups .resource (append (get $groups .resource) .group) -}}{{- end -}}
{{- if or (eq .group "") (eq .group "apps") -}}{{- $end = true -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $needs := list -}}
{{- range $order -}}{{- $needs = append $needs (dict "resource" . "groups" (get $groups .) "scope" $scope) -}}{{- end -}}
{{- toJson $needs -}}
{{- end -}}

{{- /*
The namespaces that are watched each on its own, as a sorted JSON list; empty for all, also where a label selector
decides: it may match any.
*/ -}}
{{- define "pseudo-agent.namespaces" -}}
{{- $names := dig "selection" "namespaces" list .Values.config -}}
{{- with (include "pseudo-agent.selection" . | fromJson).kubernetes_namespace -}}{{- $names = list . -}}{{- end -}}
{{- default list $names | sortAlpha | toJson -}}
{{- end -}}

{{- /* The rules of the needs of some scopes; names restrict them to objects. */ -}}
{{- define "pseudo-agent.rules" -}}
{{- $names := .names -}}
{{- $scopes := .scopes -}}
{{- $byGroups := dict -}}
{{- range .needs -}}
{{- if has .scope $scopes -}}
{{- $key := join "," .groups -}}
{{- $_ := set $byGroups $key (append (default list (get $byGroups $key)) .resource) -}}
{{- end -}}
{{- end -}}
{{- range $key := keys $byGroups | sortAlpha }}
- apiGroups:
  {{- range splitList "," $key }}
  - {{ . | quote }}
  {{- end }}
  resources:
  {{- range get $byGroups $key | uniq | sortAlpha }}
  - {{ . }}
  {{- end }}
  {{- if $names }}
  resourceNames:
  {{- range $names }}
  - {{ . }}
  {{- end }}
  {{- end }}
  verbs:
  - get
  - list
  - watch
{{- end -}}
{{- end -}}

{{- /* A registry given for all charts comes before that of this one; a digest says more than a tag. */ -}}
{{- define "pseudo-agent.image" -}}
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
{{- define "pseudo-agent.imagePullSecrets" -}}
{{- $names := list -}}
{{- range concat (default list (default dict .Values.global).imagePullSecrets) (default list .Values.imagePullSecrets) -}}
{{- $names = append $names (kindIs "string" . | ternary . (get (kindIs "map" . | ternary . dict) "name")) -}}
{{- end -}}
{{- range $names | uniq }}
- name: {{ . }}
{{- end -}}
{{- end -}}
