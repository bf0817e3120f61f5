{{- define "tool-runner.callers" -}}gateway agent-runtime{{- end -}}
{{- define "tool-runner.callees" -}}conversation-store{{- end -}}

{{- define "tool-runner.volume" -}}
{{- toYaml .Values.workspaces -}}
{{- end -}}

{{- define "tool-runner.environment" -}}
{{ include "agentmesh.storeAddress" . }}
{{/* By this name workers reach the pod that has a conversation's workspace open. */}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: AGENTMESH_ADVERTISED_ADDRESS
  value: $(POD_NAME).{{ include "agentmesh.fullname" . }}-headless.{{ .Release.Namespace }}.svc:{{ include "agentmesh.port" .Chart.Name }}
- name: AUTOGEN_TIMEOUT
  value: {{ .Values.executions.seconds | int64 | quote }}
- name: AGENTMESH_MAX_EXECUTIONS
  value: {{ .Values.executions.atOnce | int64 | quote }}
- name: AGENTMESH_EXECUTION_MEMORY_MIB
  value: {{ .Values.executions.memoryMib | int64 | quote }}
- name: AGENTMESH_MAX_EXECUTION_MEMORY_MIB
  value: {{ .Values.executions.maxMemoryMib | int64 | quote }}
- name: AGENTMESH_MAX_OPEN_WORKSPACES
  value: {{ .Values.executions.openWorkspaces | int64 | quote }}
- name: AGENTMESH_WARM_SANDBOXES
  value: {{ .Values.executions.warmSandboxes | int64 | quote }}
- name: AGENTMESH_WORKSPACE_MIB
  value: {{ .Values.executions.workspaceMib | int64 | quote }}
{{- end -}}

{{- define "tool-runner.checkMode" -}}
{{- $sandbox := .Values.sandbox -}}
{{- if and (eq $sandbox.mode "privileged") (not $sandbox.acceptPrivileged) -}}
{{- fail "tool-runner: sandbox.mode=privileged makes a break out of the sandbox a break into the node; set sandbox.acceptPrivileged=true if that is what you want, or use userNamespaces" -}}
{{- end -}}
{{/* Older API servers drop hostUsers without a word, and the pod would get its rights in the node's own namespace. */}}
{{- if and (eq $sandbox.mode "userNamespaces") (semverCompare "<1.33.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "tool-runner: sandbox.mode=userNamespaces needs Kubernetes 1.33 or newer, where pods can have user namespaces; this is %s" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- range $name, $profile := dict "seccomp" $sandbox.seccomp "appArmor" $sandbox.appArmor -}}
{{- if and (eq $profile.type "Localhost") (not $profile.localhostProfile) -}}
{{- fail (printf "tool-runner: sandbox.%s.type is Localhost, but sandbox.%s.localhostProfile names no profile" $name $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tool-runner.profile" -}}
type: {{ .type }}
{{- if eq .type "Localhost" }}
localhostProfile: {{ .localhostProfile }}
{{- end }}
{{- end -}}

{{/*
userNamespaces: root in the pod is nobody on the node, and the service is not even that. bubblewrap makes the sandbox's
namespaces as an ordinary user, with no capability of the pod's.
*/}}
{{- define "tool-runner.podSecurity" -}}
{{- include "tool-runner.checkMode" . -}}
{{- if eq .Values.sandbox.mode "userNamespaces" -}}
hostUsers: false
{{ end -}}
{{- if eq .Values.sandbox.mode "privileged" -}}
securityContext:
  fsGroup: 65532
{{- else -}}
{{ include "agentmesh.podSecurity" . }}
{{- end -}}
{{- end -}}

{{- define "tool-runner.containerSecurity" -}}
{{- if eq .Values.sandbox.mode "privileged" -}}
privileged: true
runAsUser: 0
readOnlyRootFilesystem: true
{{- else -}}
{{ include "agentmesh.containerSecurity" . }}
{{- if eq .Values.sandbox.mode "userNamespaces" }}
# A sandbox has a /proc of its own, which the kernel refuses while parts of the pod's are masked.
procMount: Unmasked
seccompProfile:
  {{- include "tool-runner.profile" .Values.sandbox.seccomp | nindent 2 }}
appArmorProfile:
  {{- include "tool-runner.profile" .Values.sandbox.appArmor | nindent 2 }}
{{- end }}
{{- end -}}
{{- end -}}

{{- define "tool-runner.annotations" -}}{{- end -}}
{{- define "tool-runner.egress" -}}{{- end -}}
{{- define "tool-runner.ports" -}}{{- end -}}
{{- define "tool-runner.ingressPorts" -}}{{- end -}}
{{- define "tool-runner.servicePorts" -}}{{- end -}}
{{- define "tool-runner.mounts" -}}{{- end -}}
{{- define "tool-runner.volumes" -}}{{- end -}}

{{- define "tool-runner.sandboxNote" -}}
{{- $mode := .Values.sandbox.mode -}}
{{- if eq $mode "restricted" -}}
NO CODE WILL RUN. sandbox.mode is `restricted`: the pod may not make the namespaces that a sandbox is made of, its
self-test fails, and requests to run code are refused with the reason. Conversations work without it. To run code:
  tool-runner.sandbox.mode=userNamespaces   (Kubernetes 1.33; the namespace must admit it; see the chart's README)
{{- else if eq $mode "userNamespaces" -}}
Code runs where the nodes support pods with user namespaces and allow nested ones. Where they do not, the pod does not start, or
its self-test fails and requests to run code are refused. What holds stands in the first lines of the log:
  kubectl --namespace {{ .Release.Namespace }} logs statefulset/{{ include "agentmesh.mesh" . }}-tool-runner
{{- if eq .Values.sandbox.seccomp.type "Unconfined" }}
The pod has no seccomp profile (each sandbox has its own): name one with sandbox.seccomp.localhostProfile if you can.
{{- end }}
{{- else -}}
WARNING: the pod is privileged. Code that breaks out of its sandbox owns the node.
{{- end -}}
{{- end -}}
