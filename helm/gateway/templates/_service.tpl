{{- define "gateway.callers" -}}*{{- end -}}
{{- define "gateway.callees" -}}conversation-store agent-runtime tool-runner{{- end -}}

{{- define "gateway.ports" -}}
- name: http
  containerPort: 8000
{{- end -}}

{{- define "gateway.ingressPorts" -}}
- {protocol: TCP, port: http}
{{- end -}}

{{- define "gateway.servicePorts" -}}
- name: http
  port: {{ .Values.service.ports.http }}
  targetPort: http
  appProtocol: http
{{- end -}}

{{- define "gateway.environment" -}}
- name: APP_HOST
  value: 0.0.0.0
- name: APP_PORT
  value: "8000"
- name: AGENTMESH_ALLOW_ANONYMOUS
  value: {{ .Values.api.allowAnonymous | quote }}
{{- range $name, $value := dict "AGENTMESH_OIDC" .Values.identity.oidc "AGENTMESH_SPIFFE_IDS" .Values.identity.spiffeIds "AGENTMESH_TRUSTED_PEERS" .Values.identity.trustedPeers "AGENTMESH_TRUSTED_HEADERS" .Values.identity.trustedHeaders "AGENTMESH_TRUSTED_PROXIES" .Values.edge.trustedProxies "AGENTMESH_TRUSTED_TRACE_PEERS" .Values.edge.trustedTracePeers "AGENTMESH_CORS_ALLOW_ORIGINS" .Values.edge.corsAllowOrigins }}
{{- with $value }}
- name: {{ $name }}
  value: {{ toJson . | quote }}
{{- end }}
{{- end }}
- name: AGENTMESH_ACCESS_LOG
  value: {{ .Values.accessLog.enabled | quote }}
- name: AGENTMESH_ACCESS_LOG_READS
  value: {{ .Values.accessLog.reads | quote }}
- name: AGENTMESH_AUDIT_READS
  value: {{ .Values.audit.reads | quote }}
{{- with .Values.limits }}
- name: AGENTMESH_REQUESTS_PER_SECOND
  value: {{ .requestsPerSecond | int64 | quote }}
- name: AGENTMESH_REQUESTS_PER_SECOND_PER_PRINCIPAL
  value: {{ .requestsPerSecondPerPrincipal | int64 | quote }}
- name: AGENTMESH_MAX_OPEN_STREAMS
  value: {{ .maxOpenStreams | int64 | quote }}
- name: AGENTMESH_MAX_OPEN_STREAMS_PER_PRINCIPAL
  value: {{ .maxOpenStreamsPerPrincipal | int64 | quote }}
- name: AGENTMESH_MAX_UPLOADS_PER_PRINCIPAL
  value: {{ .maxUploadsPerPrincipal | int64 | quote }}
{{- if .redis.enabled }}
- name: REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ required "gateway: limits.redis.enabled is true, but limits.redis.existingSecret names no secret with its URL" .redis.existingSecret }}
      key: {{ .redis.key }}
{{- end }}
{{- end }}
- name: AUTOGEN_MAX_ROUNDS
  value: {{ .Values.api.maxRounds | int64 | quote }}
- name: ENABLE_HUMAN_IN_LOOP
  value: {{ .Values.api.humanInLoop | quote }}
{{ include "agentmesh.storeAddress" . }}
{{ include "agentmesh.runtimeAddress" . }}
{{ include "agentmesh.toolRunnerAddress" . }}
{{- end -}}

{{- define "gateway.annotations" -}}{{- end -}}
{{- define "gateway.egress" -}}
{{- if .Values.limits.redis.enabled -}}
- ports:
    - {protocol: TCP, port: {{ .Values.limits.redis.port }}}
  {{- with .Values.networkPolicy.redis }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}
{{- define "gateway.volume" -}}{{- end -}}
{{- define "gateway.mounts" -}}{{- end -}}
{{- define "gateway.volumes" -}}{{- end -}}

{{- define "gateway.podSecurity" -}}{{ include "agentmesh.podSecurity" . }}{{- end -}}
{{- define "gateway.containerSecurity" -}}{{ include "agentmesh.containerSecurity" . }}{{- end -}}
