{{- define "eniagent.subjects" }}
subjects:
  - kind: ServiceAccount
    name: eniagent
    namespace: {{ .Release.Namespace }}
{{- end }}
