{{/*
The pod of a service. What differs between services comes from templates that each chart must define:
<chart>.environment, .ports, .mounts, .volumes, .volume, .annotations, .podSecurity and .containerSecurity; the last two
are agentmesh.podSecurity and agentmesh.containerSecurity unless a chart needs other rights.
*/}}

{{- define "agentmesh.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "agentmesh.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/*
Kubernetes' own gRPC probe speaks no TLS; with TLS the image's probe asks instead, over loopback and with the pod's own
certificate. Takes context, service (the name in gRPC health; empty is the whole server).
*/}}
{{- define "agentmesh.probe" -}}
{{- $port := include "agentmesh.port" .context.Chart.Name -}}
{{- if .context.Values.global.tls.enabled -}}
exec:
  command: [python, -m, meshkit.probe, "localhost:{{ $port }}", --tls, /etc/agentmesh/tls{{ with .service }}, --service, {{ . }}{{ end }}]
{{- else -}}
grpc:
  port: {{ $port }}
  {{- with .service }}
  service: {{ . }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/*
Ready is what the server as a whole says: it covers what the service needs, such as its database. Alive is asked of the
one service that needs nothing but the process: restarting a pod does not mend a database.
*/}}
{{- define "agentmesh.probes" -}}
{{- /* An interpreter has to start for each probe with TLS: ask less often, and wait longer. */}}
{{- $timeout := ternary 10 3 .Values.global.tls.enabled -}}
startupProbe:
  {{- include "agentmesh.probe" (dict "context" . "service" "agentmesh.common.v1.TraceService") | nindent 2 }}
  periodSeconds: 2
  timeoutSeconds: {{ $timeout }}
  failureThreshold: 60
readinessProbe:
  {{- include "agentmesh.probe" (dict "context" . "service" "") | nindent 2 }}
  periodSeconds: {{ ternary 10 5 .Values.global.tls.enabled }}
  timeoutSeconds: {{ $timeout }}
  failureThreshold: 2
livenessProbe:
  {{- include "agentmesh.probe" (dict "context" . "service" "agentmesh.common.v1.TraceService") | nindent 2 }}
  periodSeconds: {{ ternary 20 10 .Values.global.tls.enabled }}
  timeoutSeconds: {{ $timeout }}
  failureThreshold: 6
{{- end -}}

{{- define "agentmesh.podMetadata" -}}
labels:
  {{- include "agentmesh.labels" . | nindent 2 }}
  {{- with .Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  kubectl.kubernetes.io/default-container: {{ .Chart.Name }}
  {{- with (include (printf "%s.annotations" .Chart.Name) .) }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "agentmesh.scheduling" -}}
{{- if .Values.topologySpread.enabled }}
topologySpreadConstraints:
  {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: {{ $.Values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "agentmesh.selectorLabels" $ | nindent 8 }}
    matchLabelKeys: [{{ include "agentmesh.revisionLabel" $ }}]
  {{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Spread counts pods of one revision only, or a rollout would leave the new ones lopsided. */}}
{{- define "agentmesh.revisionLabel" -}}
{{- if eq (include "agentmesh.isStateful" .) "true" }}controller-revision-hash{{ else }}pod-template-hash{{ end -}}
{{- end -}}

{{/* A service with a volume of its own says so in <chart>.volume: size, storageClass, accessMode. */}}
{{- define "agentmesh.isStateful" -}}
{{- not (empty (include (printf "%s.volume" .Chart.Name) .)) -}}
{{- end -}}

{{- define "agentmesh.podSpec" -}}
serviceAccountName: {{ include "agentmesh.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.global.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{ include (printf "%s.podSecurity" .Chart.Name) . }}
# The endpoint has to leave every client's list before the drain begins.
terminationGracePeriodSeconds: {{ add .Values.preStopSeconds .Values.drainSeconds 10 }}
{{- include "agentmesh.scheduling" . }}
containers:
  - name: {{ .Chart.Name }}
    image: {{ include "agentmesh.image" . | quote }}
    imagePullPolicy: {{ .Values.global.image.pullPolicy }}
    securityContext:
      {{- include (printf "%s.containerSecurity" .Chart.Name) . | nindent 6 }}
    ports:
      - name: grpc
        containerPort: {{ include "agentmesh.port" .Chart.Name }}
      {{- with (include (printf "%s.ports" .Chart.Name) .) }}
      {{- . | nindent 6 }}
      {{- end }}
    env:
      {{- include "agentmesh.commonEnvironment" . | nindent 6 }}
      {{- include (printf "%s.environment" .Chart.Name) . | nindent 6 }}
      {{- with (include "agentmesh.extraEnvironment" .) }}
      {{- . | nindent 6 }}
      {{- end }}
    {{- include "agentmesh.probes" . | nindent 4 }}
    {{- if .Values.preStopSeconds }}
    lifecycle:
      preStop:
        exec:
          command: [sleep, {{ .Values.preStopSeconds | quote }}]
    {{- end }}
    resources:
      {{- toYaml .Values.resources | nindent 6 }}
    volumeMounts:
      - name: tmp
        mountPath: /tmp
      - name: data
        mountPath: /var/lib/agentmesh
      {{- if .Values.global.tls.enabled }}
      - name: tls
        mountPath: /etc/agentmesh/tls
        readOnly: true
      {{- end }}
      {{- with (include (printf "%s.mounts" .Chart.Name) .) }}
      {{- . | nindent 6 }}
      {{- end }}
volumes:
  - name: tmp
    emptyDir:
      sizeLimit: 256Mi
  {{- if ne (include "agentmesh.isStateful" .) "true" }}
  - name: data
    emptyDir:
      sizeLimit: {{ .Values.scratchSize }}
  {{- end }}
  {{- if .Values.global.tls.enabled }}
  - name: tls
    secret:
      secretName: {{ include "agentmesh.tlsSecret" . }}
      defaultMode: 0440
  {{- end }}
  {{- with (include (printf "%s.volumes" .Chart.Name) .) }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end -}}
