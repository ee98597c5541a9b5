{{/* What the vendor's client finds on a user node, brought into the pods of a pool at the same places. */}}

{{- define "regraft.cerebras.volumes" -}}
{{- $cerebras := .options.cerebras }}
- name: cerebras
  hostPath:
    path: {{ $cerebras.hostPath }}
    type: Directory
{{- with $cerebras.tokenProgram }}
- name: cerebras-token
  hostPath:
    path: {{ . }}
    type: File
{{- end }}
{{- with $cerebras.csctl }}
- name: cerebras-csctl
  hostPath:
    path: {{ . }}
    type: File
{{- end }}
{{- range $at, $claim := $cerebras.claims }}
- name: cerebras-claim-{{ $at }}
  persistentVolumeClaim:
    claimName: {{ $claim.claimName }}
{{- end }}
{{- if $cerebras.userName }}
- name: passwd
  configMap:
    name: {{ include "regraft.fullname" .root }}-{{ .component }}-passwd
{{- end }}
{{- end }}

{{- define "regraft.cerebras.mounts" -}}
{{- $cerebras := .options.cerebras }}
- name: cerebras
  mountPath: {{ $cerebras.hostPath }}
  readOnly: true
{{- with $cerebras.tokenProgram }}
- name: cerebras-token
  mountPath: {{ . }}
  readOnly: true
{{- end }}
{{- with $cerebras.csctl }}
- name: cerebras-csctl
  mountPath: {{ . }}
  readOnly: true
{{- end }}
{{- range $at, $claim := $cerebras.claims }}
- name: cerebras-claim-{{ $at }}
  mountPath: {{ $claim.mountPath }}
  readOnly: {{ ternary false $claim.readOnly (not (hasKey $claim "readOnly")) }}
{{- end }}
{{- if $cerebras.userName }}
- name: passwd
  mountPath: /etc/passwd
  subPath: passwd
  readOnly: true
{{- end }}
{{- end }}

{{/* Where the cluster is and what it mounts, from the values of a pool; what is empty is the process's own default. */}}
{{- define "regraft.cerebras.env" -}}
{{- $site := pick . "client" "release" "csctl" }}
{{- $_ := set $site "mgmt_address" .mgmtAddress }}
{{- $_ := set $site "mgmt_namespace" .mgmtNamespace }}
{{- $_ := set $site "credentials_path" .credentialsPath }}
{{- $_ := set $site "mount_dirs" (join "," .mountDirs) }}
{{- $_ := set $site "python_paths" (join "," .pythonPaths) }}
{{- $_ := set $site "compile_dir" .compileDir }}
{{- $_ := set $site "model_dir" .modelDir }}
{{- $_ := set $site "systems" (int .systems | toString) }}
{{- range $name, $value := $site }}
{{- if $value }}
- name: REGRAFT_CEREBRAS_{{ upper $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Refuses a pool that would offer no cluster, or jobs whose artifacts the cluster cannot read: root, name and pool. */}}
{{- define "regraft.cerebras.validate" -}}
{{- $where := printf "workers.%s.cerebras" .name }}
{{- $cerebras := .pool.cerebras }}
{{- range $value := list "client" "release" "mgmtAddress" "mgmtNamespace" "mountDirs" }}
{{- if not (get $cerebras $value) }}
{{- fail (printf "%s.%s is empty: the pool would offer no cluster without it; see docs/cerebras.md" $where $value) }}
{{- end }}
{{- end }}
{{- $home := include "regraft.home" .root }}
{{- $seen := false }}
{{- range $cerebras.mountDirs }}
{{- $seen = or $seen (hasPrefix (printf "%s/" (trimSuffix "/" .)) (printf "%s/" $home)) }}
{{- end }}
{{- if not (and $seen (eq .root.Values.storage.kind "pvc")) }}
{{- fail (printf "%s.mountDirs does not hold the artifacts, which are under %s: set storage.pvc.mountPath to the path by which the cluster mounts the claim of storage.pvc (storage.kind: pvc), and name it or a folder above it there" $where $home) }}
{{- end }}
{{- end }}
