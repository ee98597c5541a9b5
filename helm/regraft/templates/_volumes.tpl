{{/* Volumes and their mounts. The root file system is read-only: /tmp and the home folder are what can be written. With
     `storage.kind: pvc` the home folder is the claim, so that artifacts and logs are seen by all. */}}

{{/* The root. Artifacts have their path in the database, so it is the same in every pod. */}}
{{- define "regraft.home" -}}
{{ ternary .Values.storage.pvc.mountPath "/var/lib/regraft" (eq .Values.storage.kind "pvc") }}
{{- end }}

{{/* root, options; `scratchSize` and `sharedMemorySize` of the options limit what is local; `light` for a process that
     touches neither artifacts nor corpora. */}}
{{- define "regraft.volumes" -}}
- name: home
  {{- if and (eq .root.Values.storage.kind "pvc") (not .light) }}
  persistentVolumeClaim:
    claimName: {{ include "regraft.storageClaim" .root }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ default "1Gi" .options.scratchSize }}
  {{- end }}
- name: tmp
  emptyDir:
    sizeLimit: {{ default "1Gi" .options.scratchSize }}
{{- with ternary "" .root.Values.logs.existingClaim (default false .light) }}
- name: logs
  persistentVolumeClaim:
    claimName: {{ . }}
{{- end }}
{{- with .options.sharedMemorySize }}
- name: shared-memory
  emptyDir:
    medium: Memory
    sizeLimit: {{ . }}
{{- end }}
{{- range ternary list .root.Values.dataVolumes (default false .light) }}
- name: data-{{ .name }}
  {{- toYaml .volume | nindent 2 }}
{{- end }}
{{- with .options.cerebras }}
{{- if .enabled }}
{{- include "regraft.cerebras.volumes" (dict "root" $.root "options" $.options "component" $.component) }}
{{- end }}
{{- end }}
{{- if and (eq .component "worker-kubernetes") (not .root.Values.targets.kubernetes.runtime) }}
- name: pod-template
  configMap:
    name: {{ include "regraft.fullname" .root }}-pod-template
{{- end }}
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- with .options.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "regraft.volumeMounts" -}}
- name: home
  mountPath: {{ include "regraft.home" .root }}
- name: tmp
  mountPath: /tmp
{{- if and .root.Values.logs.existingClaim (not .light) }}
- name: logs
  mountPath: {{ include "regraft.home" .root }}/logs
{{- end }}
{{- if .options.sharedMemorySize }}
- name: shared-memory
  mountPath: /dev/shm
{{- end }}
{{- range ternary list .root.Values.dataVolumes (default false .light) }}
- name: data-{{ .name }}
  mountPath: {{ .mountPath }}
  readOnly: {{ ternary true .readOnly (not (hasKey . "readOnly")) }}
{{- end }}
{{- with .options.cerebras }}
{{- if .enabled }}
{{- include "regraft.cerebras.mounts" (dict "options" $.options) }}
{{- end }}
{{- end }}
{{- if and (eq .component "worker-kubernetes") (not .root.Values.targets.kubernetes.runtime) }}
- name: pod-template
  mountPath: /etc/regraft
  readOnly: true
{{- end }}
{{- with .root.Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- with .options.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}
