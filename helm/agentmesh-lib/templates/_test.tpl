{{/* `helm test`: asks the service for its gRPC health, over the network and with TLS if it has it. */}}
{{- define "agentmesh.healthTest" -}}
{{- if .Values.tests.enabled -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "agentmesh.fullname" . }}-health
  namespace: {{ .Release.Namespace }}
  labels:
    app.kubernetes.io/name: {{ .Chart.Name }}-test
    app.kubernetes.io/instance: {{ .Release.Name }}
    app.kubernetes.io/component: helm-test
    app.kubernetes.io/part-of: {{ include "agentmesh.mesh" . }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .Values.global.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- include "agentmesh.podSecurity" . | nindent 2 }}
  containers:
    - name: health
      image: {{ include "agentmesh.image" . | quote }}
      imagePullPolicy: {{ .Values.global.image.pullPolicy }}
      securityContext:
        {{- include "agentmesh.containerSecurity" . | nindent 8 }}
      command: [python, -m, meshkit.probe, "{{ include "agentmesh.fullname" . }}:{{ ((.Values.service).ports).grpc | default (include "agentmesh.port" .Chart.Name) }}"{{ if .Values.global.tls.enabled }}, --tls, /etc/agentmesh/tls{{ end }}]
      {{- if .Values.global.tls.enabled }}
      volumeMounts:
        - name: tls
          mountPath: /etc/agentmesh/tls
          readOnly: true
      {{- end }}
      resources:
        requests: {cpu: 50m, memory: 64Mi}
        limits: {cpu: 500m, memory: 256Mi}
  {{- if .Values.global.tls.enabled }}
  volumes:
    - name: tls
      secret:
        secretName: {{ include "agentmesh.tlsSecret" . }}
        defaultMode: 0440
  {{- end }}
{{- end -}}
{{- end -}}
