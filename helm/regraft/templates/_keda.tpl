{{/* One pod for each stage that waits or runs in the queues: what runs counts, or its pod would be scaled away. */}}

{{- define "regraft.queueTrigger" -}}
{{- if eq .root.Values.keda.source "prometheus" -}}
{{- /* Every API process tells the same of the database: the largest is taken, not the sum. */ -}}
{{- $of := printf "{namespace=%q,queue=~%q}" .root.Release.Namespace (join "|" .queues | replace "." "[.]") -}}
- type: prometheus
  metadata:
    serverAddress: {{ .root.Values.keda.prometheusAddress }}
    query: >-
      sum(max by (queue) (regraft_queue_ready_stages{{ $of }})) + sum(max by (queue) (regraft_queue_running_stages{{ $of }}))
      or vector(0)
    threshold: "1"
{{- else -}}
- type: postgresql
  metadata:
    query: >-
      SELECT count(*) FROM stages WHERE queue IN ('{{ join "', '" .queues }}')
      AND (status = 'running' OR status = 'ready' AND available_at <= now())
    targetQueryValue: "1"
    {{- include "regraft.keda.database" .root | nindent 4 }}
  authenticationRef:
    name: {{ include "regraft.fullname" .root }}-queues
{{- end }}
{{- end }}

{{- define "regraft.keda.database" -}}
{{- $own := .Values.externalDatabase -}}
{{- if .Values.postgresql.enabled -}}
host: {{ include "regraft.fullname" . }}-postgresql.{{ .Release.Namespace }}.svc
port: "5432"
userName: regraft
dbName: regraft
sslmode: disable
{{- else if $own.host -}}
host: {{ $own.host }}
port: {{ int $own.port | quote }}
userName: {{ $own.user }}
dbName: {{ $own.database }}
sslmode: {{ $own.sslMode }}
{{- end }}
{{- end }}
