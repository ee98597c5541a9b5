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
