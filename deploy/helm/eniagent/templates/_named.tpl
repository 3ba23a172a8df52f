{{- define "eniagent.subjects" }}
subjects:
  - kind: ServiceAccount
    name: eniagent
    namespace: {{ .Release.Namespace }}
{{- end }}

{{- define "eniagent.image" -}}
{{ .Values.image.repository }}{{ with .Values.image.digest }}@{{ . }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}
