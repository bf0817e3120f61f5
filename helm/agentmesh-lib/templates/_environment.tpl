{{/* Settings every service has. Secrets only ever by reference. */}}
{{- define "agentmesh.commonEnvironment" -}}
- name: AGENTMESH_GRPC_HOST
  value: 0.0.0.0
- name: AGENTMESH_GRPC_PORT
  value: {{ include "agentmesh.port" .Chart.Name | quote }}
- name: AGENTMESH_DATA_DIR
  value: /var/lib/agentmesh
- name: AGENTMESH_DRAIN_SECONDS
  value: {{ .Values.drainSeconds | quote }}
- name: AGENTMESH_MAX_MESSAGE_BYTES
  value: {{ .Values.global.maxMessageBytes | int64 | quote }}
- name: AGENTMESH_MAX_CONNECTIONS
  value: {{ .Values.global.maxConnections | int64 | quote }}
- name: AGENTMESH_INTERNAL_SECRET
  valueFrom:
    secretKeyRef:
      name: {{ .Values.global.internalAuth.existingSecret | default (printf "%s-internal" (include "agentmesh.mesh" .)) }}
      key: {{ .Values.global.internalAuth.key }}
{{- with .Values.global.internalAuth.acceptedKey }}
- name: AGENTMESH_INTERNAL_SECRET_ACCEPTED
  valueFrom:
    secretKeyRef:
      name: {{ $.Values.global.internalAuth.existingSecret | default (printf "%s-internal" (include "agentmesh.mesh" $)) }}
      key: {{ . }}
{{- end }}
- name: LOG_LEVEL
  value: {{ .Values.global.logging.level }}
- name: AGENTMESH_LOG_FORMAT
  value: {{ .Values.global.logging.format }}
{{- with .Values.global.telemetry.otlpEndpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- if .Values.global.tls.enabled }}
- name: AGENTMESH_TLS_CERT_FILE
  value: /etc/agentmesh/tls/tls.crt
- name: AGENTMESH_TLS_KEY_FILE
  value: /etc/agentmesh/tls/tls.key
- name: AGENTMESH_TLS_CA_FILE
  value: /etc/agentmesh/tls/ca.crt
- name: AGENTMESH_TLS_REQUIRE_CLIENT_CERT
  value: {{ include "agentmesh.requiresClientCert" . | quote }}
{{- end }}
{{- end -}}

{{/* The gateway is called by people, who have API keys and no certificate of the mesh. */}}
{{- define "agentmesh.requiresClientCert" -}}
{{- if hasKey .Values "tls" }}{{ .Values.tls.requireClientCert }}{{ else }}{{ .Values.global.tls.requireClientCert }}{{ end -}}
{{- end -}}

{{- define "agentmesh.storeAddress" -}}
- name: AGENTMESH_STORE_ADDRESS
  value: {{ include "agentmesh.address" (dict "context" . "component" "conversation-store" "override" .Values.global.addresses.store) }}
{{- end -}}

{{- define "agentmesh.runtimeAddress" -}}
- name: AGENTMESH_RUNTIME_ADDRESS
  value: {{ include "agentmesh.address" (dict "context" . "component" "agent-runtime" "override" .Values.global.addresses.runtime) }}
{{- end -}}

{{- define "agentmesh.toolRunnerAddress" -}}
- name: AGENTMESH_TOOL_RUNNER_ADDRESS
  value: {{ include "agentmesh.address" (dict "context" . "component" "tool-runner" "override" .Values.global.addresses.toolRunner) }}
{{- end -}}

{{/* Settings the user adds: plain ones by `env`, secret ones by `secretEnv`. */}}
{{- define "agentmesh.extraEnvironment" -}}
{{- range $name, $value := .Values.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- range .Values.secretEnv }}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{- end }}
{{- end -}}
