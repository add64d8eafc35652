{{- define "jobbridge.name" -}}
{{ .Release.Name | replace "." "-" | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* What the pod says by variable, or relies on; a variable wins over the file. */}}
{{- define "jobbridge.check" -}}
{{- if not .Values.nats.url }}{{ fail "nats.url is empty: a gateway publishes to a NATS; a bridge whose workers connect to it is kubernetes/sidecar" }}{{ end }}
{{- range $key, $value := dict "journal" "mode" "data-dir" "mode" "nats-url" "nats.url" "nats-user" "nats.user" "nats-password-file" "nats.passwordKey" "secret-file" "secretName" "trusted-proxies" "trustedProxies" "drain-delay" "drainDelaySeconds" }}
{{- if hasKey $.Values.config $key }}{{ fail (printf "config.%s has no effect in this chart: set %s" $key $value) }}{{ end }}
{{- end }}
{{- range list "listen" "admin-listen" "admin-tls-cert" }}
{{- if hasKey $.Values.config . }}{{ fail (printf "config.%s: this chart's service, probes and hooks speak plain HTTP, to ports of their own" .) }}{{ end }}
{{- end }}
{{- end }}

{{- define "jobbridge.selector" -}}
app.kubernetes.io/name: jobbridge
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "jobbridge.labels" -}}
{{ include "jobbridge.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
