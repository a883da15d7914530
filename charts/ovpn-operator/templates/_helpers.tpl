{{/* Names of our objects: NAME-agent, NAME-controller, NAME-holder. */}}
{{- define "ovpn.agentName" -}}{{ .Values.nameOverride }}-agent{{- end }}
{{- define "ovpn.controllerName" -}}{{ .Values.nameOverride }}-controller{{- end }}
{{- define "ovpn.holderName" -}}{{ .Values.nameOverride }}-holder{{- end }}

{{- define "ovpn.agentAccount" -}}
{{- include "ovpn.account" (dict "account" .Values.agent.serviceAccount "default" (include "ovpn.agentName" .) "value" "agent.serviceAccount") }}
{{- end }}
{{- define "ovpn.controllerAccount" -}}
{{- include "ovpn.account" (dict "account" .Values.controller.serviceAccount "default" (include "ovpn.controllerName" .) "value" "controller.serviceAccount") }}
{{- end }}

{{/* The `default` account of a namespace is everybody's: rights for it would be rights for all pods. */}}
{{- define "ovpn.account" -}}
{{- if .account.name -}}{{ .account.name }}
{{- else if .account.create -}}{{ .default }}
{{- else -}}{{ fail (printf "%s.name is empty and %s.create is false: name the service account that is there" .value .value) }}
{{- end }}
{{- end }}

{{/* Where the networks' own CAs are: the controller's name for it. */}}
{{- define "ovpn.caNamespace" -}}{{ .Release.Namespace }}-ca{{- end }}

{{- define "ovpn.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{ .Values.image.registry }}/{{ .Values.image.repository }}:{{ $tag }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* By what a workload finds its pods; never changes, since a selector cannot. Takes a list: context, component. */}}
{{- define "ovpn.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels of an object. Takes a list: context, component. */}}
{{- define "ovpn.labels" -}}
{{- $root := index . 0 -}}
{{ include "ovpn.selector" . }}
app.kubernetes.io/part-of: ovpn-operator
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* What a container says of its image. */}}
{{- define "ovpn.containerImage" -}}
image: {{ include "ovpn.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{/* Root on the node, with no capability at all: its folders are root's. */}}
{{- define "ovpn.rootWithoutCapabilities" -}}
securityContext:
  runAsUser: 0
  runAsGroup: 0
  privileged: false
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
  seccompProfile: { type: RuntimeDefault }
  # Where SELinux is on, a confined container may not write to the node's folders.
  seLinuxOptions: { type: spc_t }
{{- end }}

{{/* The objects of the Prometheus Operator. Takes a list: context, kind, value. */}}
{{- define "ovpn.needMonitoring" -}}
{{- $root := index . 0 -}}
{{- if not ($root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1") }}
{{- fail (printf "%s is true, but the cluster has no %s (monitoring.coreos.com/v1): install the Prometheus Operator first, or set %s to false; for helm template, add --api-versions monitoring.coreos.com/v1" (index . 2) (index . 1) (index . 2)) }}
{{- end }}
{{- end }}

{{- define "ovpn.cniMounts" -}}
- { name: cni-bin, mountPath: /host/cni-bin }
- { name: cni-conf, mountPath: /host/cni-conf }
{{- end }}
