{{- define "agentmesh.workload" -}}
{{- if eq (include "agentmesh.isStateful" .) "true" -}}
{{ include "agentmesh.statefulSet" . }}
{{- else -}}
{{ include "agentmesh.deployment" . }}
{{- end -}}
{{- end -}}

{{- define "agentmesh.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "agentmesh.metadata" . | nindent 2 }}
spec:
  {{- if not (.Values.autoscaling).enabled }}
  replicas: {{ .Values.replicas }}
  {{- end }}
  revisionHistoryLimit: 3
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxSurge: 1
      maxUnavailable: 0
  selector:
    matchLabels:
      {{- include "agentmesh.selectorLabels" . | nindent 6 }}
  template:
    metadata:
      {{- include "agentmesh.podMetadata" . | nindent 6 }}
    spec:
      {{- include "agentmesh.podSpec" . | nindent 6 }}
{{- end -}}

{{/* One pod with a volume: the next one starts only after the last one has let go of the files. */}}
{{- define "agentmesh.statefulSet" -}}
{{- $volume := include (printf "%s.volume" .Chart.Name) . | fromYaml -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  {{- include "agentmesh.metadata" . | nindent 2 }}
spec:
  replicas: {{ .Values.replicas }}
  revisionHistoryLimit: 3
  serviceName: {{ include "agentmesh.fullname" . }}-headless
  selector:
    matchLabels:
      {{- include "agentmesh.selectorLabels" . | nindent 6 }}
  template:
    metadata:
      {{- include "agentmesh.podMetadata" . | nindent 6 }}
    spec:
      {{- include "agentmesh.podSpec" . | nindent 6 }}
  persistentVolumeClaimRetentionPolicy:
    whenDeleted: Retain
    whenScaled: Retain
  volumeClaimTemplates:
    - metadata:
        name: data
        labels:
          {{- include "agentmesh.selectorLabels" . | nindent 10 }}
      spec:
        accessModes: [{{ $volume.accessMode }}]
        {{- with $volume.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ $volume.size }}
{{- end -}}

{{- define "agentmesh.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "agentmesh.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "agentmesh.labels" . | nindent 4 }}
  {{- with .Values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end -}}
{{- end -}}

{{/* Headless: one address per pod, for the mesh's own clients. They balance each call themselves. */}}
{{- define "agentmesh.headlessService" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "agentmesh.fullname" . }}-headless
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "agentmesh.labels" . | nindent 4 }}
spec:
  clusterIP: None
  selector:
    {{- include "agentmesh.selectorLabels" . | nindent 4 }}
  ports:
    - name: grpc
      port: {{ include "agentmesh.port" .Chart.Name }}
      targetPort: grpc
      {{- if not .Values.global.tls.enabled }}
      appProtocol: kubernetes.io/h2c
      {{- end }}
{{- end -}}

{{- define "agentmesh.service" -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "agentmesh.metadata" . | nindent 2 }}
  {{- with (.Values.service).annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ (.Values.service).type | default "ClusterIP" }}
  selector:
    {{- include "agentmesh.selectorLabels" . | nindent 4 }}
  ports:
    - name: grpc
      port: {{ ((.Values.service).ports).grpc | default (include "agentmesh.port" .Chart.Name) }}
      targetPort: grpc
      {{- if not .Values.global.tls.enabled }}
      appProtocol: kubernetes.io/h2c
      {{- end }}
    {{- with (include (printf "%s.servicePorts" .Chart.Name) .) }}
    {{- . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- define "agentmesh.podDisruptionBudget" -}}
{{- if and .Values.podDisruptionBudget.enabled (gt (include "agentmesh.leastReplicas" . | int) 1) -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "agentmesh.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ .Values.podDisruptionBudget.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "agentmesh.selectorLabels" . | nindent 6 }}
{{- end -}}
{{- end -}}

{{- define "agentmesh.autoscaler" -}}
{{- if (.Values.autoscaling).enabled -}}
{{- if lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas) -}}
{{- fail (printf "%s: autoscaling.maxReplicas (%d) is less than autoscaling.minReplicas (%d)" .Chart.Name (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas)) -}}
{{- end -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "agentmesh.metadata" . | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "agentmesh.fullname" . }}
  minReplicas: {{ .Values.autoscaling.minReplicas }}
  maxReplicas: {{ .Values.autoscaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ .Values.autoscaling.targetCpuPercent }}
  behavior:
    # Streams and turns are long: leave slowly.
    scaleDown:
      stabilizationWindowSeconds: {{ .Values.autoscaling.scaleDownSeconds }}
      policies:
        - type: Pods
          value: 1
          periodSeconds: 60
{{- end -}}
{{- end -}}

{{/* Everything a service has whatever it is; the chart adds its workload and what is its own. */}}
{{- define "agentmesh.objects" -}}
{{ include "agentmesh.serviceAccount" . }}
---
{{ include "agentmesh.service" . }}
---
{{ include "agentmesh.headlessService" . }}
---
{{ include "agentmesh.networkPolicy" . }}
---
{{ include "agentmesh.podDisruptionBudget" . }}
---
{{ include "agentmesh.autoscaler" . }}
---
{{ include "agentmesh.certificate" . }}
---
{{ include "agentmesh.healthTest" . }}
{{- end -}}
