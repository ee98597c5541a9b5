{{/* The environment of the release's own images. Passwords come from secrets and appear in no object. */}}

{{- define "regraft.databaseEnv" -}}
{{- if .Values.postgresql.enabled -}}
- name: PGPASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "regraft.postgresql.secret" . }}
      key: password
- name: REGRAFT_DATABASE_URL
  value: postgresql://regraft@{{ include "regraft.fullname" . }}-postgresql:5432/regraft
{{- else if .Values.externalDatabase.host -}}
{{- with .Values.externalDatabase -}}
# Beside the URL, so that it may hold any character.
- name: PGPASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .passwordKey }}
- name: REGRAFT_DATABASE_URL
  value: postgresql://{{ .user }}@{{ .host }}:{{ int .port }}/{{ .database }}?sslmode={{ .sslMode }}
{{- end }}
{{- else -}}
- name: REGRAFT_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.externalDatabase.existingSecret }}
      key: {{ .Values.externalDatabase.urlKey }}
{{- end }}
{{- end }}

{{- define "regraft.redisEnv" -}}
{{- if .Values.redis.enabled -}}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "regraft.redis.secret" . }}
      key: password
- name: REGRAFT_REDIS_URL
  value: redis://:$(REDIS_PASSWORD)@{{ include "regraft.fullname" . }}-redis:6379/0
{{- else if .Values.externalRedis.host -}}
{{- with .Values.externalRedis -}}
{{- if .passwordKey -}}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .passwordKey }}
{{ end -}}
- name: REGRAFT_REDIS_URL
  value: {{ ternary "rediss" "redis" .tls }}://{{ ternary ":$(REDIS_PASSWORD)@" "" (not (empty .passwordKey)) }}{{ .host }}:{{ int .port }}/{{ int .database }}
{{- end }}
{{- else -}}
- name: REGRAFT_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.externalRedis.existingSecret }}
      key: {{ .Values.externalRedis.urlKey }}
{{- end }}
{{- end }}

{{- define "regraft.storageEnv" -}}
{{- with .Values.storage.s3 }}
{{- if .existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .accessKeyIdKey }}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .secretAccessKeyKey }}
{{- end }}
{{- with .endpointUrl }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- with .region }}
- name: AWS_REGION
  value: {{ . | quote }}
- name: AWS_DEFAULT_REGION
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* What every process needs: root, component and options. */}}
{{- define "regraft.env" -}}
{{ include "regraft.databaseEnv" .root }}
{{ include "regraft.redisEnv" .root }}
{{- if eq .root.Values.storage.kind "s3" }}
{{- include "regraft.storageEnv" .root }}
{{- end }}
{{- if eq .component "worker-kubernetes" }}
{{- with .root.Values.targets.kubernetes }}
{{- if .runtime }}
- name: REGRAFT_KUBERNETES_RUNTIME
  value: {{ .runtime }}
{{- else }}
- name: REGRAFT_KUBERNETES_POD
  value: /etc/regraft/pod.yaml
{{- end }}
- name: REGRAFT_KUBERNETES_NODES
  value: {{ int .nodes | quote }}
- name: REGRAFT_KUBERNETES_NODE_DEVICES
  value: {{ int .nodeDevices | quote }}
- name: REGRAFT_KUBERNETES_DEVICE
  value: {{ .device }}
{{- with .queue }}
- name: REGRAFT_KUBERNETES_QUEUE
  value: {{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- if dig "cerebras" "enabled" false (default (dict) .options) }}
{{- include "regraft.cerebras.env" .options.cerebras }}
{{- end }}
{{- with dig "cerebras" "userName" "" (default (dict) .options) }}
- name: USER
  value: {{ . }}
- name: LOGNAME
  value: {{ . }}
{{- end }}
{{- with .root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- with .options.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "regraft.envFrom" -}}
- configMapRef:
    name: {{ include "regraft.fullname" . }}
{{- with .Values.extraEnvFrom }}
{{ toYaml . }}
{{- end }}
{{- end }}
