{{/* Names, labels, images. Every helper takes the root, or a dict with `root` and what else it needs. */}}

{{- define "regraft.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $given := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $given .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "regraft.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- define "regraft.labels" -}}
{{ include "regraft.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: regraft
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Metadata of an object: root, component, name, and `annotations` of its own. */}}
{{- define "regraft.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "regraft.labels" . | nindent 2 }}
{{- with mergeOverwrite (dict) .root.Values.commonAnnotations (default (dict) .annotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A reference to an image: root and image; a digest wins over a tag. */}}
{{- define "regraft.image" -}}
{{- $registry := default .image.registry .root.Values.global.imageRegistry -}}
{{- $name := ternary .image.repository (printf "%s/%s" $registry .image.repository) (empty $registry) -}}
{{- if .image.digest -}}
{{ printf "%s@%s" $name .image.digest }}
{{- else -}}
{{ printf "%s:%s" $name (default .root.Chart.AppVersion .image.tag) }}
{{- end }}
{{- end }}

{{- define "regraft.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "regraft.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The account of the workers that make Jobs; nobody else has its rights. */}}
{{- define "regraft.launcherAccountName" -}}
{{ default (printf "%s-launcher" (include "regraft.fullname" .)) .Values.targets.kubernetes.serviceAccountName }}
{{- end }}

{{- define "regraft.storageClaim" -}}
{{ default (printf "%s-storage" (include "regraft.fullname" .)) .Values.storage.pvc.existingClaim }}
{{- end }}

{{/* The pools of workers that are made, each with the defaults under it, as YAML. */}}
{{- define "regraft.pools" -}}
{{- range $name, $given := .Values.workers }}
{{- $pool := mergeOverwrite (deepCopy $.Values.workerDefaults) (deepCopy $given) }}
{{- if eq $name "kubernetes" }}
{{- $_ := set $pool "enabled" $.Values.targets.kubernetes.enabled }}
{{- end }}
{{- if $pool.enabled }}
{{ $name }}:
  {{- toYaml $pool | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Seconds between the signal and the kill of whoever runs stages: more than a stage may take to save. */}}
{{- define "regraft.grace" -}}
{{- $stop := int (default 120 .root.Values.settings.stop_seconds) -}}
{{- $grace := int (default (add $stop 30) .options.terminationGracePeriodSeconds) -}}
{{- if le $grace $stop -}}
{{- fail (printf "terminationGracePeriodSeconds of %s is %d: a stage may take `settings.stop_seconds` (%d) to save; give it more than that" .component $grace $stop) -}}
{{- end -}}
{{ $grace }}
{{- end }}

{{/* A number as Python reads it: Helm has read it as a float, which prints large ones with an exponent. */}}
{{- define "regraft.scalar" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{ int64 . }}
{{- else -}}
{{ toString . }}
{{- end }}
{{- end }}

{{/* Labels for the topology of pods, as one list. */}}
{{- define "regraft.topologySpread" -}}
{{- range .root.Values.topologySpread.topologyKeys }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: {{ $.root.Values.topologySpread.whenUnsatisfiable }}
  labelSelector:
    matchLabels:
      {{- include "regraft.selectorLabels" (dict "root" $.root "component" $.component) | nindent 6 }}
{{- end }}
{{- end }}
