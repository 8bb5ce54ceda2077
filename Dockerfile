# The server as an image: docker compose up --build (docker-compose.yml says what it does). Of models only the bundled one is in it; packages live in the volume /data.
ARG SDK=mcr.microsoft.com/dotnet/sdk:10.0
ARG RUNTIME=mcr.microsoft.com/dotnet/aspnet:10.0

FROM ${SDK} AS build
WORKDIR /source
COPY . .
RUN dotnet publish src/Cli -c Release -o /app --nologo

FROM ${RUNTIME}
COPY --from=build /app /app
# The runtime images' user for programs; it has to own what it writes to.
ARG APP_UID=1654
RUN mkdir /data && chown ${APP_UID}:${APP_UID} /data
USER ${APP_UID}
ENV FLASH_HOME=/data PATH=/app:$PATH
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/app/flash"]
CMD ["serve", "--host", "0.0.0.0"]
