{{/* Rules of network policies. */}}

{{- define "regraft.egress.dns" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end }}

{{/* Egress to the database, the broker and the object storage, whichever is inside the release or outside. */}}
{{- define "regraft.egress.database" -}}
{{- if .Values.postgresql.enabled -}}
{{ include "regraft.egress.bundled" (dict "root" . "component" "postgresql" "port" 5432) }}
{{- else -}}
{{ include "regraft.egress.outside" (dict "root" . "port" .Values.externalDatabase.port) }}
{{- end }}
{{- end }}

{{- define "regraft.egress.services" -}}
{{ include "regraft.egress.database" . }}
{{ if .Values.redis.enabled -}}
{{ include "regraft.egress.bundled" (dict "root" . "component" "redis" "port" 6379) }}
{{- else -}}
{{ include "regraft.egress.outside" (dict "root" . "port" .Values.externalRedis.port) }}
{{- end }}
{{- if eq .Values.storage.kind "s3" }}
{{ include "regraft.egress.outside" (dict "root" . "port" .Values.storage.s3.port) }}
{{- end }}
{{- end }}

{{- define "regraft.egress.bundled" -}}
- to:
    - podSelector:
        matchLabels:
          {{- include "regraft.selectorLabels" . | nindent 10 }}
  ports:
    - port: {{ .port }}
{{- end }}

{{- define "regraft.egress.outside" -}}
- ports:
    - port: {{ int .port }}
  {{- with .root.Values.networkPolicy.servicesTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
