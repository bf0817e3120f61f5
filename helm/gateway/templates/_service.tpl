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
{{- range $name, $value := dict "AGENTMESH_OIDC" .Values.identity.oidc "AGENTMESH_SPIFFE_IDS" .Values.identity.spiffeIds "AGENTMESH_TRUSTED_PEERS" .Values.identity.trustedPeers "AGENTMESH_TRUSTED_HEADERS" .Values.identity.trustedHeaders }}
{{- with $value }}
- name: {{ $name }}
  value: {{ toJson . | quote }}
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
{{- define "gateway.egress" -}}{{- end -}}
{{- define "gateway.volume" -}}{{- end -}}
{{- define "gateway.mounts" -}}{{- end -}}
{{- define "gateway.volumes" -}}{{- end -}}

{{- define "gateway.podSecurity" -}}{{ include "agentmesh.podSecurity" . }}{{- end -}}
{{- define "gateway.containerSecurity" -}}{{ include "agentmesh.containerSecurity" . }}{{- end -}}
