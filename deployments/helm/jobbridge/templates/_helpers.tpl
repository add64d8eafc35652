{{- define "jobbridge.name" -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
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
