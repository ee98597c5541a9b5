{{/* The pod of every process of ours. A dict with
     root, component, options (its values), image, args, and:
     ports      YAML of the container's ports
     grace      terminationGracePeriodSeconds
     account    service account, if not the release's; its token is mounted then
     priority   `control` or `work`
     light      true: neither artifacts nor corpora are mounted
*/}}

{{- define "regraft.pod" -}}
metadata:
  labels:
    {{- include "regraft.labels" (dict "root" .root "component" .component) | nindent 4 }}
    {{- with .options.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ include (print .root.Template.BasePath "/configmap.yaml") .root | sha256sum }}
    {{- with .options.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "regraft.podBasics" . | nindent 2 }}
  terminationGracePeriodSeconds: {{ .grace }}
  {{- $class := default (ternary (printf "%s-%s" (include "regraft.fullname" .root) .priority) "" .root.Values.priorityClasses.create) .options.priorityClassName }}
  {{- with $class }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .options.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with .options.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .options.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .options.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with dig "cerebras" "hostAliases" list .options }}
  hostAliases:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .root.Values.topologySpread.enabled }}
  topologySpreadConstraints:
    {{- include "regraft.topologySpread" . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .component | splitList "-" | first }}
      image: {{ include "regraft.image" . }}
      imagePullPolicy: {{ .image.pullPolicy }}
      args:
        {{- toYaml .args | nindent 8 }}
      env:
        {{- include "regraft.env" . | nindent 8 }}
      envFrom:
        {{- include "regraft.envFrom" .root | nindent 8 }}
      {{- with .ports }}
      ports:
        {{- . | nindent 8 }}
      {{- end }}
      {{- range $probe := list "startupProbe" "livenessProbe" "readinessProbe" }}
      {{- with get $.options $probe }}
      {{ $probe }}:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- end }}
      resources:
        {{- toYaml .options.resources | nindent 8 }}
      securityContext:
        {{- toYaml .root.Values.containerSecurityContext | nindent 8 }}
      volumeMounts:
        {{- include "regraft.volumeMounts" . | nindent 8 }}
  volumes:
    {{- include "regraft.volumes" . | nindent 4 }}
{{- end }}

{{/* What also the pods of hooks and tests have. */}}
{{- define "regraft.podBasics" -}}
{{- with .root.Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .hook }}
# The account of the release may not be there yet.
{{- else }}
serviceAccountName: {{ default (include "regraft.serviceAccountName" .root) .account }}
{{- end }}
automountServiceAccountToken: {{ not (empty .account) }}
# Kubernetes would set REGRAFT_API_PORT to the address of a service called regraft-api; here it is a setting.
enableServiceLinks: false
securityContext:
  {{- include "regraft.podSecurityContext" . | nindent 2 }}
{{- end }}

{{- define "regraft.podSecurityContext" -}}
{{- $context := deepCopy .root.Values.podSecurityContext }}
{{- $options := default (dict) .options }}
{{- if .root.Values.openshift }}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" "fsGroupChangePolicy" }}
{{- end }}
{{- with $options.runAsUser }}
{{- $_ := set $context "runAsUser" (int64 .) }}
{{- end }}
{{- with $options.runAsGroup }}
{{- $_ := set $context "runAsGroup" (int64 .) }}
{{- end }}
{{- if dig "cerebras" "enabled" false $options }}
{{- /* Files on NFS belong to the users of the cluster: nothing is given to another group. */}}
{{- $context = omit $context "fsGroup" "fsGroupChangePolicy" }}
{{- end }}
{{- toYaml $context }}
{{- end }}
