{{/*
Names. A mesh is what shares a name: by default the release, so that the umbrella chart is one mesh;
charts installed alone join one by `global.meshName`. Every object is called <mesh>-<component>, where the
component is the chart's own name, and so the services find each other without being told.
*/}}

{{- define "agentmesh.mesh" -}}
{{- .Values.global.meshName | default .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- end -}}

{{- define "agentmesh.fullname" -}}
{{- printf "%s-%s" (include "agentmesh.mesh" .) .Chart.Name -}}
{{- end -}}

{{/* The gRPC port of a component. In a pod of its own there is no reason to choose another. */}}
{{- define "agentmesh.port" -}}
{{- get (dict "gateway" 50051 "conversation-store" 50052 "agent-runtime" 50053 "tool-runner" 50054) . -}}
{{- end -}}

{{/* host:port of another component's headless twin, so that clients see and balance over every pod. */}}
{{- define "agentmesh.address" -}}
{{- $mesh := include "agentmesh.mesh" .context -}}
{{- $port := include "agentmesh.port" .component -}}
{{- .override | default (printf "%s-%s-headless.%s.svc:%s" $mesh .component .context.Release.Namespace $port) -}}
{{- end -}}

{{- define "agentmesh.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "agentmesh.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "agentmesh.image" -}}
{{- $name := .Values.image.repository -}}
{{- with .Values.global.image.registry }}{{ $name = printf "%s/%s" . $name }}{{ end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $name .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.Values.image.tag | default .Values.global.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* What selects this component's pods. Never changes: a Deployment's selector cannot. */}}
{{- define "agentmesh.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Chart.Name }}
{{- end -}}

{{- define "agentmesh.labels" -}}
{{ include "agentmesh.selectorLabels" . }}
app.kubernetes.io/part-of: {{ include "agentmesh.mesh" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Pods of one mesh by component: what network policies are written in. Takes context, component. */}}
{{- define "agentmesh.peer" -}}
podSelector:
  matchLabels:
    app.kubernetes.io/part-of: {{ include "agentmesh.mesh" .context }}
    app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "agentmesh.metadata" -}}
name: {{ include "agentmesh.fullname" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "agentmesh.labels" . | nindent 2 }}
{{- end -}}

{{/* Replicas that always run: what decides whether disruptions can be budgeted. */}}
{{- define "agentmesh.leastReplicas" -}}
{{- if (.Values.autoscaling).enabled }}{{ .Values.autoscaling.minReplicas }}{{ else }}{{ .Values.replicas }}{{ end -}}
{{- end -}}

{{/* For charts that are installed alone: what they expect of the rest. */}}
{{- define "agentmesh.meshNotes" -}}
It is a part of the mesh "{{ include "agentmesh.mesh" . }}": it expects the other services as {{ include "agentmesh.mesh" . }}-<chart>, and the
secret {{ .Values.global.internalAuth.existingSecret | default (printf "%s-internal" (include "agentmesh.mesh" .)) }} that the store's chart makes. Pods wait until it is there.
{{- end -}}
