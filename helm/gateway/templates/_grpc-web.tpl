{{/* The proxy that translates gRPC-Web for browsers: its names and its pod. */}}

{{- define "agentmesh.grpcWebName" -}}
{{- printf "%s-grpc-web" (include "agentmesh.mesh" .) -}}
{{- end -}}

{{- define "agentmesh.grpcWebSelector" -}}
app.kubernetes.io/name: grpc-web
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: grpc-web
{{- end -}}

{{- define "agentmesh.grpcWebLabels" -}}
{{ include "agentmesh.grpcWebSelector" . }}
app.kubernetes.io/part-of: {{ include "agentmesh.mesh" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "agentmesh.grpcWebImage" -}}
{{- $image := .Values.grpcWeb.image -}}
{{- $name := $image.repository -}}
{{- with .Values.global.image.registry }}{{ $name = printf "%s/%s" . $name }}{{ end -}}
{{- if $image.digest }}{{ printf "%s@%s" $name $image.digest }}{{ else }}{{ printf "%s:%s" $name $image.tag }}{{ end -}}
{{- end -}}

{{- define "agentmesh.grpcWebPod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.global.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{ include "agentmesh.podSecurity" . }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: envoy
    image: {{ include "agentmesh.grpcWebImage" . | quote }}
    imagePullPolicy: {{ .Values.global.image.pullPolicy }}
    command: [/usr/local/bin/envoy]
    # It is replaced, never handed over: that would need memory that processes share.
    args: [--disable-hot-restart, --log-level, warning, --config-path, /etc/agentmesh/envoy.yaml]
    securityContext:
      {{- include "agentmesh.containerSecurity" . | nindent 6 }}
    ports:
      - name: http
        containerPort: 8080
    readinessProbe:
      tcpSocket:
        port: http
      periodSeconds: 5
    livenessProbe:
      tcpSocket:
        port: http
      periodSeconds: 10
    resources:
      {{- toYaml .Values.grpcWeb.resources | nindent 6 }}
    volumeMounts:
      - name: config
        mountPath: /etc/agentmesh
        readOnly: true
volumes:
  - name: config
    configMap:
      name: {{ include "agentmesh.grpcWebName" . }}
{{- end -}}
