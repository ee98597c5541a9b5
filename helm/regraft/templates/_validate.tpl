{{/* What a schema cannot say: values that do not fit together. Each message names the value and what to do. */}}

{{- define "regraft.validate" -}}
{{- $v := .Values }}
{{- if and $v.postgresql.enabled $v.externalDatabase.host }}
{{- fail "postgresql.enabled and externalDatabase.host are both set: choose the bundled database or your own" }}
{{- end }}
{{- if and (not $v.postgresql.enabled) (not $v.externalDatabase.existingSecret) }}
{{- fail "externalDatabase.existingSecret is empty: name a secret with the database's URL or password, or set postgresql.enabled for a trial" }}
{{- end }}
{{- if and $v.redis.enabled $v.externalRedis.host }}
{{- fail "redis.enabled and externalRedis.host are both set: choose the bundled broker or your own" }}
{{- end }}
{{- if and (not $v.redis.enabled) (not $v.externalRedis.existingSecret) (or (not $v.externalRedis.host) $v.externalRedis.passwordKey) }}
{{- fail "externalRedis.existingSecret is empty: name a secret with the broker's URL or password, or set redis.enabled for a trial" }}
{{- end }}
{{- if and (eq $v.storage.kind "s3") (not $v.storage.s3.uri) }}
{{- fail "storage.s3.uri is empty: storage.kind is s3, so name the bucket, e.g. s3://bucket/prefix" }}
{{- end }}
{{- with $v.targets.kubernetes }}
{{- if and .enabled (not .podTemplate) (not .runtime) }}
{{- fail "targets.kubernetes.podTemplate is empty: give the template of the pods of trainings, see docs/kubernetes.md" }}
{{- end }}
{{- if and .enabled .podTemplate .runtime }}
{{- fail "targets.kubernetes.runtime and targets.kubernetes.podTemplate are both set: Jobs are made from a template, TrainJobs from a runtime" }}
{{- end }}
{{- end }}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) }}
{{- fail "httpRoute.parentRefs is empty: name the Gateway that the route is attached to" }}
{{- end }}
{{- if and $v.metrics.serviceMonitor.enabled (not (or $v.metrics.serviceMonitor.keySecret $v.keys.existingSecret)) }}
{{- fail "metrics.serviceMonitor.keySecret is empty: /metrics asks for a key; make one with `regraft keys create --scope read` and name its secret" }}
{{- end }}
{{- if and $v.api.autoscaling.enabled (gt (int $v.api.autoscaling.minReplicas) (int $v.api.autoscaling.maxReplicas)) }}
{{- fail "api.autoscaling.minReplicas is above api.autoscaling.maxReplicas" }}
{{- end }}
{{- $pools := include "regraft.pools" . | fromYaml }}
{{- range $name, $options := merge (dict "dataprep" $v.dataprep) $pools }}
{{- include "regraft.validate.scaled" (dict "root" $ "name" $name "options" $options) }}
{{- end }}
{{- range $name, $pool := $pools }}
{{- if and $pool.cerebras.enabled $pool.cerebras.userName (not $pool.runAsUser) }}
{{- fail (printf "workers.%s.runAsUser is not set: cerebras.userName needs the user's number on the cluster, and runAsGroup its group's" $name) }}
{{- end }}
{{- if $pool.cerebras.enabled }}
{{- include "regraft.cerebras.validate" (dict "root" $ "name" $name "pool" $pool) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "regraft.validate.scaled" -}}
{{- with .options.autoscaling }}
{{- if .enabled }}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
{{- fail (printf "autoscaling.minReplicas of %s is above its maxReplicas" $.name) }}
{{- end }}
{{- if not $.options.queues }}
{{- fail (printf "queues of %s is empty: autoscaling follows their depth; name them, e.g. train.gpu" $.name) }}
{{- end }}
{{- if and (eq $.root.Values.keda.source "prometheus") (not $.root.Values.keda.prometheusAddress) }}
{{- fail "keda.prometheusAddress is empty: keda.source is prometheus, so say where it is" }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
