{{/* The database and the broker of a trial. */}}

{{- define "regraft.postgresql.secret" -}}
{{ default (printf "%s-postgresql" (include "regraft.fullname" .)) .Values.postgresql.existingSecret }}
{{- end }}

{{- define "regraft.redis.secret" -}}
{{ default (printf "%s-redis" (include "regraft.fullname" .)) .Values.redis.existingSecret }}
{{- end }}

{{/* The password that is there already, else a new one: root and name of the secret. */}}
{{- define "regraft.bundled.password" -}}
{{- $there := lookup "v1" "Secret" .root.Release.Namespace .name -}}
{{- dig "data" "password" (randAlphaNum 32 | b64enc) (default (dict) $there) -}}
{{- end }}

{{/* 999 is the user of both official images. */}}
{{- define "regraft.bundled.podSecurityContext" -}}
{{- $context := deepCopy .Values.podSecurityContext }}
{{- if not .Values.openshift }}
{{- $context = mergeOverwrite $context (dict "runAsUser" 999 "runAsGroup" 999 "fsGroup" 999) }}
{{- else }}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" "fsGroupChangePolicy" }}
{{- end }}
{{- toYaml $context }}
{{- end }}
